"""``ccdcgan check``: whether this machine or a cluster has what a campaign needs, part by part."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ccdcgan.dft.engines.corrections import warnings_of
from ccdcgan.dft.engines.vasp.doubts import doubts
from ccdcgan.dft.engines.vasp.makers import summary
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.stages import MakerStage
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import InUseError, locked
from ccdcgan.dft.mistakes import in_one_line
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import moments_of
from ccdcgan.dft.structures.references import load_references
from ccdcgan.dft.trusted import trust
from ccdcgan.launchers.check.findings import Finding, tried
from ccdcgan.launchers.check.outlook import run_findings, source_findings
from ccdcgan.launchers.cluster.files import FIREWORKS
from ccdcgan.launchers.cluster.settings import Cluster, load_cluster
from ccdcgan.launchers.wording import counted
from ccdcgan.launchers.workdir import CAMPAIGN_FILE, taken_up
from ccdcgan.workflows.campaign import Campaign, load_campaign

#: Packages whose versions decide whether two machines understand each other.
PACKAGES = (
    "ccdcgan",
    "jobflow",
    "fireworks",
    "pymongo",
    "pymatgen",
    "atomate2",
    "custodian",
    "tensorflow",
)

#: Distributions that bring a package under another name.
ALSO = {"tensorflow": ("tensorflow-cpu", "tensorflow-rocm", "tf-nightly")}

#: What an engine needs, and how to get it.
ENGINE_PACKAGES = {
    "sevennet": (("sevenn",), "pip install sevenn"),
    "chgnet": (("chgnet",), "pip install chgnet"),
    "vasp": (("atomate2", "custodian", "psutil"), "pip install 'ccdcgan[vasp]'"),
    "gpaw": (("gpaw",), "pip install 'ccdcgan[gpaw]'"),
}

#: Gigabytes below which a disk is too small for calculations and networks.
SPACE = 5.0


def require_ready(campaign: Campaign, folder: Path) -> None:
    """Look at what the campaign needs to run in a folder, before anything that takes long.

    Raises
    ------
    UserError
        Something is missing: all that is, in one line.
    """
    campaign = taken_up(folder, campaign)
    stored = folder / CAMPAIGN_FILE
    # What began goes on with what its first job has proposed.
    unchanged = stored.exists() and not load_campaign(stored).changes(campaign)
    looks = engine_findings(campaign) if unchanged else local_findings(campaign, folder)
    missing = [f.text for f in looks if f.state == "missing"]
    if missing:
        raise UserError(in_one_line(missing, "things are missing"))


def local_findings(campaign: Campaign, folder: Path) -> Iterator[Finding]:
    """Look at engines, references, sources, and the folder of a run on this machine."""
    trust(campaign.trusted)
    # A folder that holds something else is among the findings.
    with contextlib.suppress(UserError):
        campaign = taken_up(folder, campaign)
    yield from engine_findings(campaign)
    most = yield from source_findings(campaign)
    yield from run_findings(campaign, folder, most)


def findings(
    campaign: Campaign,
    folder: Path,
    config: Path | None = None,
    timeout: float | None = None,
) -> Iterator[Finding]:
    """Look at each part that the campaign uses.

    Parameters
    ----------
    folder
        Where the results of a run on this machine go.
    config
        ``my_fireworks.yaml`` of a cluster; None looks at the engines on this machine only.
    timeout
        Seconds to wait for a small job of each worker class; None submits none.
    """
    if config is None:
        yield from local_findings(campaign, folder)
        return
    yield from _package_findings(campaign)
    cluster: Cluster | None = None
    # Without it not even the file can be judged.
    if installed_version("fireworks"):
        try:
            cluster = load_cluster(config)
        except UserError as error:
            yield Finding("missing", str(error))
    trust(() if cluster is None else cluster.trusted)
    if cluster is None:
        yield Finding("note", "not tested without them: database, folder, queues")
        yield from engine_findings(campaign)
        yield from source_findings(campaign)
        return
    yield Finding("ok", f"{config}")
    yield tried(partial(_fireworks_settings, cluster))
    from ccdcgan.launchers.check.cluster import cluster_findings
    from ccdcgan.launchers.check.workers import worker_findings
    from ccdcgan.launchers.cluster.queue import require_time

    parts = yield from cluster_findings(cluster)
    try:
        require_time(campaign, cluster.workers["dft"])
    except UserError as error:
        yield Finding("missing", str(error))
    yield from engine_findings(campaign, elsewhere=timeout is not None)
    yield from source_findings(campaign)
    if timeout is not None:
        yield from worker_findings(cluster, campaign, parts, timeout)


def engine_findings(campaign: Campaign, elsewhere: bool = False) -> Iterator[Finding]:
    """Whether each engine of a campaign can run here.

    Parameters
    ----------
    elsewhere
        DFT codes will be tested where they are to run, and need not be here.
    """
    for name, asked in campaign.relaxations.items():
        try:
            relaxation = asked.completed(campaign.elements)
        except UserError as error:
            # Whoever submits needs the user's own makers, too.
            yield Finding("missing", f"{name}: {error}")
            continue
        found = tried(partial(_engine, name, relaxation, campaign.elements))
        local = relaxation.engine.is_potential
        if found.state == "missing" and elsewhere and not local:
            found = Finding("note", f"on this machine: {found.text}")
        yield found
        if found.state == "ok":
            try:
                yield from _energies(name, relaxation, campaign)
            except UserError as error:
                yield Finding("missing", str(error))
    if campaign.references:
        yield tried(partial(_references, campaign))


def _engine(name: str, relaxation: RelaxationSettings, elements: list[str]) -> Finding:
    engine = relaxation.engine
    relaxation.check(elements)
    level = relaxation.level_of_theory(elements).name
    return Finding("ok", f"{name} by {engine.name} of {', '.join(elements)}: {level}")


def _energies(name: str, relaxation: RelaxationSettings, campaign: Campaign) -> Iterator[Finding]:
    """What stands beside the engine's energies, and what to know of them."""
    engine = relaxation.engine
    corrected = campaign.model_copy(update={"relaxation": relaxation}).corrections is not None
    if corrected:
        yield Finding(
            "ok", f"{name}: GGA and GGA+U on one scale by MP2020's corrections of pymatgen"
        )
    for line in warnings_of(engine, corrected, campaign.elements):
        yield Finding("note", f"{name}: {line}")
    if isinstance(engine, VaspEngine):
        yield from _stages(name, engine)
    other = engine.second_opinion() if relaxation.second_opinion else None
    if other is not None:
        level = other.level_of_theory(campaign.elements).name
        yield Finding("ok", f"{name}: second opinion by {level}")
    elif engine.is_potential:
        yield Finding("note", f"{name}: nothing gives a second opinion on false minima")


def _stages(name: str, engine: VaspEngine) -> Iterator[Finding]:
    """What makers of the user's own write, and what to know of INCAR tags."""
    lines: dict[str, None] = {}
    for number, stage in enumerate(engine.stages, 1):
        if isinstance(stage, MakerStage):
            written = summary(engine.maker_inputs[str(number)])
            yield Finding("ok", f"{name}: stage {number} by {stage.maker}: {written}")
        else:
            lines |= dict.fromkeys(doubts(engine.of_stage(number - 1).incar))
    for line in lines:
        yield Finding("note", f"{name}: engine.incar: {line}")


def _references(campaign: Campaign) -> Finding:
    engine = campaign.relaxation.engine
    found, skipped = load_references(
        campaign.references, campaign.elements, magnetic=not engine.is_potential
    )
    text = f"references: {counted(len(found), 'crystal')}"
    ordered = sum(moments_of(p.structure) is not None for p in found)
    if ordered and not (engine.is_potential or engine.is_magnetic):
        return Finding("note", f"{text}; without spin, moments of {ordered} of them are left out")
    if not skipped:
        return Finding("ok", text)
    first = skipped[0]
    return Finding(
        "note",
        f"{text}; {len(skipped)} cannot be used, the first is {first.id}: {first.reason}",
    )


def installed_version(package: str) -> str | None:
    """Version of a package, or None; imports nothing."""
    for name in (package, *ALSO.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def versions() -> dict[str, str]:
    """Versions of the packages that matter, of those that are installed."""
    return {name: found for name in PACKAGES if (found := installed_version(name))}


def _package_findings(campaign: Campaign) -> Iterator[Finding]:
    found = versions()
    yield Finding("ok", ", ".join(f"{name} {version}" for name, version in found.items()))
    if "fireworks" not in found:
        yield Finding("missing", "a cluster needs FireWorks: pip install 'ccdcgan[cluster]'")
    if "tensorflow" not in found:
        yield Finding("missing", "the networks need TensorFlow: pip install tensorflow")
    names: dict[str, None] = {}
    for relaxation in campaign.relaxations.values():
        engine = relaxation.engine
        names[engine.name] = None
        if isinstance(engine, VaspEngine) and engine.pre_relax is not None:
            names[engine.pre_relax.name] = None
    for name in names:
        packages, remedy = ENGINE_PACKAGES.get(name, ((), ""))
        lacking = [package for package in packages if not installed_version(package)]
        if lacking:
            yield Finding("missing", f"engine {name} needs {', '.join(lacking)}: {remedy}")


def _fireworks_settings(cluster: Cluster) -> Finding:
    """FireWorks takes the first file of settings that it finds, and looks for ours last."""
    spec = find_spec("fireworks")
    assert spec is not None and spec.origin is not None
    folders = (Path.cwd(), Path.home() / ".fireworks", Path(spec.origin).parent.parent)
    for folder in folders:
        path = folder / FIREWORKS
        if path.exists() and folder != cluster.config:
            raise UserError(
                f"FireWorks reads {path} in place of the settings of ccdcgan, such as heartbeats: "
                "move it away"
            )
    return Finding("ok", "settings of FireWorks: nothing overrides them")


def folder_finding(folder: Path) -> Finding:
    """Whether a folder is there or can be made, with room, and holds files and their locks.

    Raises
    ------
    UserError
        It does not.
    """
    try:
        there = next(f for f in (folder, *folder.parents) if f.exists())
        with tempfile.NamedTemporaryFile(dir=there, prefix=".ccdcgan-check-") as file:
            file.write(b"check")
            file.flush()
            locked = _locks(Path(file.name))
        free = shutil.disk_usage(there).free / 1e9
    except OSError as error:
        raise UserError(
            f"cannot write in {folder} ({error.strerror}): choose another folder"
        ) from None
    if not locked:
        raise UserError(
            f"files in {folder} cannot be locked: mount that disk with locks (Lustre: -o flock), "
            "or choose a folder on another"
        )
    if free < SPACE:
        raise UserError(
            f"only {free:.1f} GB are free in {folder}, and calculations and networks need "
            f"{SPACE:g}: make room, or choose another folder"
        )
    made = "" if there == folder else "can be made, "
    return Finding("ok", f"{folder}: {made}writable, files can be locked, {free:.0f} GB free")


def _locks(path: Path) -> bool:
    """Whether a second lock on a file is refused: some disks accept every lock and hold none."""
    try:
        with locked(path, ""), locked(path, ""):
            return False
    except InUseError:
        return True
    except UserError:
        return False
