"""``my_fireworks.yaml``: database, worker classes and queues; and FireWorks' files made of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import string
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri
from ruamel.yaml import YAML

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import write_atomically
from ccdcgan.dft.mistakes import did_you_mean, shown, validated
from ccdcgan.dft.settings import FilePath
from ccdcgan.dft.yaml_files import read_yaml
from ccdcgan.launchers.environment import ENVIRONMENT, environment_text
from ccdcgan.workflows.stores import DATA, PHASES, RESULTS

CLASSES = ("dft", "gpu", "light")
ClassName = Literal["dft", "gpu", "light"]

#: A run counts as lost after so many heartbeats that did not come.
MISSED_HEARTBEATS = 4

#: Seconds, at least, after which the lock that a killed worker left on a campaign is broken.
LOCKED = 60.0

#: Names of the files that the workers of a folder share.
JOBSTORE, FIREWORKS = "jobflow.yaml", "FW_config.yaml"


#: Names that MongoDB takes for a database, and for a collection.
DatabaseName = Annotated[str, Field(pattern=r"^[\w-]{1,63}$")]
PackageName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")]
CollectionName = Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]

#: Name of an environment variable.
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Database(_Section):
    """Where a MongoDB is; its address, which may hold a password, is never in the file."""

    uri_from_environment: Variable = Field(
        "CCDCGAN_MONGODB_URI",
        description="Environment variable with the address, as mongodb://user:password@host/.",
    )
    database: DatabaseName = "ccdcgan"

    @property
    def uri(self) -> str:
        """The address.

        Raises
        ------
        UserError
            The environment variable is not set, or holds no address; that is not repeated.
        """
        found = os.environ.get(self.uri_from_environment, "").strip()
        if not found:
            raise UserError(
                f"set {self.uri_from_environment} to the address of the database, "
                "as mongodb://user:password@host:27017/"
            )
        with address_in(self.uri_from_environment):
            # Looking at one of the other kind asks a name server.
            if not found.startswith("mongodb+srv://"):
                parse_uri(found, warn=True)
        return found


@contextlib.contextmanager
def address_in(where: object) -> Iterator[None]:
    """Turn what pymongo says of an address into one line, without the address.

    Parameters
    ----------
    where
        What holds it: an environment variable or a file.
    """
    try:
        yield
    except (InvalidURI, ConfigurationError, ValueError, TypeError):
        # The message would repeat the address.
        raise UserError(
            f"{where} is not the address of a MongoDB: it should look like "
            "mongodb://user:password@host:27017/"
        ) from None
    except OSError as error:
        raise UserError(
            f"{where} names the file {error.filename}, which cannot be read: {error.strerror}"
        ) from None


class Documents(Database):
    """Outputs of jobs: a collection."""

    collection: CollectionName = "outputs"


class Blobs(Database):
    """Networks and large outputs: GridFS."""

    collection: CollectionName = "blobs"


class Results(Database):
    """Relaxations under their content keys, and phases."""

    relaxations: CollectionName = "relaxations"
    phases: CollectionName = "phases"


class Stores(_Section):
    """Where results are kept."""

    documents: Documents = Documents()
    blobs: Blobs = Blobs()
    results: Results = Results()


class Queue(BaseModel):
    """A queue, by FireWorks' CommonAdapter; further keys go into its template."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Literal["SLURM", "PBS", "SGE", "Cobalt", "LoadLeveler", "LoadSharingFacility", "MOAB"] = (
        "SLURM"
    )
    template: FilePath | None = Field(None, description="Instead of FireWorks' own.")

    @model_validator(mode="after")
    def _in_template(self) -> Queue:
        known = self.template_keys()
        for key, value in self.parameters.items():
            if key not in known:
                raise ValueError(
                    f"the template of {self.type} has no {shown(key)}{did_you_mean(key, known)} "
                    f"(it has {', '.join(sorted(known))})"
                )
            if not isinstance(value, (str, int, float)):
                raise ValueError(f"{key} is a text or a number, not {shown(value)}")
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """What goes into the template."""
        return dict(self.model_extra or {})

    def template_keys(self) -> set[str]:
        """What the template asks for, less what we fill in."""
        path = self.template
        if path is None:
            # Not imported: FireWorks reads its settings then, which are written later.
            found = find_spec("fireworks")
            if found is None or found.origin is None:
                raise UserError("a cluster needs FireWorks: pip install 'ccdcgan[cluster]'")
            adapters = Path(found.origin).parent / "user_objects" / "queue_adapters"
            path = adapters / f"{self.type}_template.txt"
        try:
            text = path.expanduser().read_text()
        except OSError as error:
            raise ValueError(f"cannot read the template {path}: {error.strerror}") from None
        # FireWorks fills in names only, and drops the line of SLURM's gpu-bind.
        parts = string.Formatter().parse(text)
        keys = {key for _, key, _, _ in parts if key and key.isidentifier()}
        return keys - {"launch_dir", "rocket_launch", "pre_rocket", "post_rocket", "job_name"}


class Worker(_Section):
    """How the jobs of one class run."""

    queue: Queue
    jobs: int = Field(1, ge=1, description="Most queue jobs at a time.")
    modules: tuple[str, ...] = Field((), description="For `module load`.")
    environment: dict[Variable, str] = Field(default_factory=dict)
    before: tuple[str, ...] = Field((), description="Shell commands before the worker starts.")
    idle: float = Field(
        60.0, ge=0, description="Seconds that a worker without work waits for more."
    )


class Cluster(_Section):
    """All that is in ``my_fireworks.yaml``."""

    folder: FilePath = Field(
        Path("~/ccdcgan"),
        description="On a disk that all nodes see: calculations, checkpoints, logs.",
    )
    launchpad: Database = Database()
    stores: Stores = Stores()
    heartbeat: float = Field(30.0, gt=0, description="Seconds between two signs of life of a run.")
    patience: float = Field(
        3600.0, ge=0, description="Seconds that a worker waits for a database that is away."
    )
    trusted: tuple[PackageName, ...] = Field(
        (),
        description="Packages whose functions jobs may call, beside ccdcgan, atomate2 and jobflow.",
    )
    workers: dict[ClassName, Worker]

    @model_validator(mode="after")
    def _every_class(self) -> Cluster:
        for name in CLASSES:
            if name not in self.workers:
                raise ValueError(f"workers.{name} is missing: a campaign has jobs of all classes")
        return self

    @property
    def root(self) -> Path:
        """The folder on the shared disk."""
        return self.folder.expanduser().absolute()

    @property
    def lost_after(self) -> float:
        """Seconds without a sign of life after which a run counts as lost."""
        return MISSED_HEARTBEATS * self.heartbeat

    def store_of(self, name: str) -> Any:
        """An unconnected maggma store: ``documents``, or one of the JobStore's additional ones."""
        from maggma.stores import MongoStore
        from maggma.stores.gridfs import GridFSStore

        # Reads are repeated by pymongo itself, once it finds the server again.
        options = {"serverSelectionTimeoutMS": 5000}
        if name == DATA:
            blobs = self.stores.blobs
            return GridFSStore.from_uri(
                blobs.uri, blobs.collection, database=blobs.database, mongoclient_kwargs=options
            )
        chosen: Database = self.stores.results
        collection = {
            "documents": self.stores.documents.collection,
            RESULTS: self.stores.results.relaxations,
            PHASES: self.stores.results.phases,
        }[name]
        key = {"documents": "uuid", RESULTS: "key", PHASES: "uid"}[name]
        if name == "documents":
            chosen = self.stores.documents
        return MongoStore.from_uri(
            chosen.uri, collection, database=chosen.database, key=key, mongoclient_kwargs=options
        )

    def job_store(self) -> Any:
        """The unconnected JobStore."""
        from jobflow import JobStore

        return JobStore(
            self.store_of("documents"),
            additional_stores={name: self.store_of(name) for name in (RESULTS, DATA, PHASES)},
        )


def load_cluster(path: Path) -> Cluster:
    """Read ``my_fireworks.yaml``.

    Raises
    ------
    UserError
        The file cannot be read, has an unknown key or a value that does not fit.
    """
    if not path.exists():
        raise UserError(
            f"there is no {path}: copy my_fireworks.yaml from ccdcgan's repository and edit it, or "
            "name yours with --config"
        )
    return validated(Cluster, read_yaml(path), str(path), {"folder": path.absolute().parent})


def write_files(cluster: Cluster, folder: Path, campaign: str | None = None) -> None:
    """Write what ``lpad``, ``rlaunch`` and ``qlaunch -c FOLDER/<class>`` read.

    The addresses are in them, so that a node needs no credentials of its own: nobody else may
    read them.

    Parameters
    ----------
    campaign
        The only one whose jobs the workers take; None for all.
    """
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "PING_TIME_SECS": cluster.heartbeat,
        "RUN_EXPIRATION_SECS": cluster.lost_after,
        "WFLOCK_EXPIRATION_SECS": max(LOCKED, cluster.lost_after),
        "WFLOCK_EXPIRATION_KILL": True,
        "SORT_FWS": "FIFO",
        "QUEUE_UPDATE_INTERVAL": 1,
        "RAPIDFIRE_SLEEP_SECS": 5,
    }
    _write(folder / FIREWORKS, settings)
    _write(folder / JOBSTORE, {"JOB_STORE": _job_store_spec(cluster)}, secret=True)
    _write_text(folder / ENVIRONMENT, _environment(cluster, folder))
    launchpad = {
        "host": cluster.launchpad.uri,
        "name": cluster.launchpad.database,
        "uri_mode": True,
        "logdir": None,
        "strm_lvl": "INFO",
        "mongoclient_kwargs": {"serverSelectionTimeoutMS": 30000},
    }
    _write(folder / "my_launchpad.yaml", launchpad, secret=True)
    for name, worker in cluster.workers.items():
        own = folder / name
        own.mkdir(exist_ok=True)
        _write(own / "my_launchpad.yaml", launchpad, secret=True)
        # FireWorks' own test for the name cannot use an index.
        query = {"spec._fworker": name, **({"spec.campaign": campaign} if campaign else {})}
        trusted = {"trusted": list(cluster.trusted)}
        fworker = {"name": name, "category": "", "query": json.dumps(query), "env": trusted}
        _write(own / "my_fworker.yaml", fworker)
        _write(own / "my_qadapter.yaml", adapter_settings(worker, name, folder))


def adapter_settings(worker: Worker, name: str, folder: Path) -> dict[str, Any]:
    """What is in my_qadapter.yaml of a class, for a worker with the files of a folder."""
    before = [f"source {shlex.quote(str(folder / ENVIRONMENT))}"]
    before += [f"module load {shlex.quote(module)}" for module in worker.modules]
    before += [f"export {key}={shlex.quote(v)}" for key, v in worker.environment.items()]
    seconds = walltime_seconds(worker.queue)
    if seconds is not None:
        # Not every queue tells its jobs when they end.
        before.append(f"export CCDCGAN_END_TIME=$(( $(date +%s) + {seconds} ))")
    before += worker.before
    command = [sys.executable, "-m", "ccdcgan.launchers.cli", "worker", str(folder / name)]
    template = worker.queue.template
    return {
        "_fw_name": "CommonAdapter",
        "_fw_q_type": worker.queue.type,
        **({"_fw_template_file": str(template.expanduser().absolute())} if template else {}),
        **worker.queue.parameters,
        "job_name": f"ccdcgan-{name}",
        "pre_rocket": "\n".join(before),
        "rocket_launch": shlex.join(command) + f" --idle {worker.idle:g}",
    }


def walltime_seconds(queue: Queue) -> int | None:
    """Seconds of a queue's ``walltime``, as HH:MM:SS, D-HH:MM:SS or, for Slurm, minutes."""
    text = str(queue.parameters.get("walltime", ""))
    if queue.type == "SLURM" and text.isdigit():
        return 60 * int(text)
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(x or 0) for x in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


def _environment(cluster: Cluster, folder: Path) -> str:
    root = cluster.root
    return environment_text(
        {
            "FW_CONFIG_FILE": folder / FIREWORKS,
            "JOBFLOW_CONFIG_FILE": folder / JOBSTORE,
            "CCDCGAN_CALCULATIONS": root / "calculations",
            "CCDCGAN_CHECKPOINTS": root / "checkpoints",
            "CCDCGAN_LOGS": root / "logs",
            "CCDCGAN_SPOOL": root / "spool",
            "CCDCGAN_PATIENCE": f"{cluster.patience:g}",
        }
    )


def _job_store_spec(cluster: Cluster) -> dict[str, Any]:
    def spec(store: Any, kind: str) -> dict[str, Any]:
        return {
            "type": kind,
            "uri": store.uri,
            "database": store.database,
            "collection_name": store.collection_name,
            "mongoclient_kwargs": {"serverSelectionTimeoutMS": int(1000 * cluster.patience) + 5000},
        }

    return {
        "docs_store": spec(cluster.store_of("documents"), "MongoStore"),
        "additional_stores": {
            RESULTS: spec(cluster.store_of(RESULTS), "MongoStore"),
            DATA: spec(cluster.store_of(DATA), "GridFSStore"),
            PHASES: spec(cluster.store_of(PHASES), "MongoStore"),
        },
    }


def _write(path: Path, data: dict[str, Any], secret: bool = False) -> None:
    stream = StringIO()
    yaml = YAML()
    yaml.width = 10000
    yaml.dump(data, stream)
    _write_text(path, stream.getvalue(), secret)


def _write_text(path: Path, text: str, secret: bool = False) -> None:
    write_atomically(path, text, private=secret)
