"""What campaigns have left that nobody needs any more, and that may be removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from ccdcgan.dft.engines.espresso import SCRATCH
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import TEMPORARY, locked
from ccdcgan.dft.relaxation.key import is_content_key
from ccdcgan.launchers.workdir import CALCULATIONS, campaign_of, embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.storage.stores import DATA, RESULTS

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.launchpad import Pad
    from ccdcgan.launchers.cluster.settings import Cluster

#: What VASP leaves to go on from: large, and of no use once there is a result.
WAVES = [f"{name}{end}" for name in ("WAVECAR", "CHGCAR", "CHG") for end in ("", ".gz")]

#: What has not changed for so long belongs to nobody who still runs, s.
AGE = 24 * 3600.0

#: A filter that no document passes.
NOTHING = {"key": {"$in": list[str]()}}

#: States of launches whose folders people or restarts look at.
KEPT_LAUNCHES = ("RUNNING", "RESERVED", "FIZZLED")


@dataclass(frozen=True)
class Leftovers:
    """One kind of what may be removed.

    Attributes
    ----------
    what
        In words.
    paths
        Files and folders.
    collection, query
        Records of a database, where it is those.
    """

    what: str
    paths: Sequence[Path] = ()
    collection: Any = None
    query: Mapping[str, object] = field(default_factory=dict)

    @property
    def count(self) -> int:
        records = 0 if self.collection is None else self.collection.count_documents(self.query)
        return len(self.paths) + records

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(map(_size, self.paths))

    def remove(self) -> int:
        """Remove them; how many stay: somebody has begun to use them, or they are another's."""
        stay = 0
        for path in self.paths:
            try:
                with _unused(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except (UserError, OSError):
                stay += 1
        if self.collection is not None:
            self.collection.delete_many(self.query)
        return stay


def leftovers_of_folder(folder: Path, waves: bool = False) -> list[Leftovers]:
    """What may be removed of a campaign's folder.

    Parameters
    ----------
    waves
        Also what `VaspEngine.keep_waves` keeps.

    Raises
    ------
    UserError
        It holds no campaign, or one that runs.
    """
    campaign = campaign_of(folder)
    with locked(folder / ".lock", f"{folder} is in use by a ccdcgan run: wait for its end"):
        wanted = {} if waves or not _keeps_waves(campaign) else NOTHING
        return _of_files(embedded_store(folder), folder, wanted)


def leftovers_of_cluster(cluster: Cluster, pad: Pad, waves: bool = False) -> list[Leftovers]:
    """What may be removed of a cluster's folder, and of its database's records."""
    from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, PROGRESS, QUEUE_JOBS
    from ccdcgan.launchers.cluster.submission import Submission
    from ccdcgan.launchers.cluster.submit import OVER

    keeping: set[str] = set()
    for document in pad.db[CAMPAIGNS].find({}):
        # One of another version need not be readable.
        with contextlib.suppress(UserError, ValueError):
            submission = Submission.model_validate(document)
            if not waves and _keeps_waves(submission.campaign()):
                keeping |= {submission.id, submission.digest}
    wanted = {"campaign": {"$nin": sorted(keeping)}}
    before = (datetime.now(UTC) - timedelta(seconds=AGE)).isoformat(timespec="seconds")
    ended = {"state": "ended", "submitted_at": {"$lt": before}}
    left = [job["fw_id"] for job in pad.fireworks.find({"state": {"$nin": OVER}}, {"fw_id": 1})]
    return [
        *_of_files(cluster.job_store(), cluster.root, wanted),
        Leftovers("folders of queue jobs without a failed job", _launch_folders(cluster, pad)),
        Leftovers("records of queue jobs that ended", (), pad.db[QUEUE_JOBS], ended),
        Leftovers("progress of jobs that are over", (), pad.db[PROGRESS], {"_id": {"$nin": left}}),
    ]


def _keeps_waves(campaign: Campaign) -> bool:
    engines = [relaxation.engine for relaxation in campaign.relaxations.values()]
    return any(isinstance(engine, VaspEngine) and engine.keep_waves for engine in engines)


def _of_files(store: Any, root: Path, wanted: Mapping[str, object]) -> list[Leftovers]:
    """What lies in a folder, by what the stores know of it.

    Parameters
    ----------
    wanted
        Of which relaxations wavefunctions may go.
    """
    relaxations, artifacts = (store.additional_stores[name] for name in (RESULTS, DATA))
    for one in (relaxations, artifacts):
        one.connect()
    done = {"converged": True, "retry": {"$ne": True}, **wanted}
    keys = (d.get("key") for d in relaxations.query(done, ["key"]))
    # Others may write into a database: what is no key would lead elsewhere.
    folders = [root / CALCULATIONS / str(key) for key in keys if is_content_key(key)]
    waves = [path for folder in folders for name in WAVES for path in folder.glob(f"*/{name}")]
    kept = sorted((root / "checkpoints").glob("*.npz"))
    trained = [path for path in kept if artifacts.count({"key": path.stem})]
    return [
        Leftovers("WAVECAR, CHGCAR and CHG of finished calculations", waves),
        Leftovers("checkpoints of finished trainings", trained),
        Leftovers("files that were never written to their end", _old(root.rglob(TEMPORARY))),
        Leftovers("scratch of pw.x that was killed", _old(_scratch())),
    ]


def _scratch() -> Iterator[Path]:
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid():
                yield folder


def _launch_folders(cluster: Cluster, pad: Pad) -> list[Path]:
    """Those of queue jobs that ended, in which no job of ours runs or has failed."""
    from ccdcgan.launchers.cluster.launchpad import QUEUE_JOBS

    alive = {"state": {"$in": ["sent", "queued", "running"]}}
    kept = [d.get("folder") for d in pad.db[QUEUE_JOBS].find(alive, {"folder": 1})]
    busy = {"state": {"$in": KEPT_LAUNCHES}}
    kept += [d.get("launch_dir") for d in pad.launches.find(busy, {"launch_dir": 1})]
    # A folder is one of a queue job, or lies in it.
    used = {part for folder in kept if folder for part in (Path(folder), *Path(folder).parents)}
    return [path for path in _old(cluster.root.glob("launches/*/*")) if path not in used]


def _old(paths: Iterable[Path]) -> list[Path]:
    """Those in which nothing has changed for long."""
    return [path for path in paths if _changed(path) < time() - AGE]


def _changed(path: Path) -> float:
    return max((s.st_mtime for s in _stats(path)), default=time())


def _size(path: Path) -> int:
    return sum(s.st_size for s in _stats(path) if not stat.S_ISDIR(s.st_mode))


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of a folder and all that is in it; links are not followed."""
    for one in (path, *(path.rglob("*") if path.is_dir() else ())):
        with contextlib.suppress(OSError):
            yield one.lstat()


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[None]:
    """Hold the calculation that a file is of, if it is of one."""
    lock = path.parent.parent / ".lock"
    with locked(lock, str(path)) if lock.is_file() else contextlib.nullcontext():
        yield
