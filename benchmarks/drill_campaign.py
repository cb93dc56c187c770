"""The drill's campaigns, from the outside: commands, processes, and what they leave behind."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
sys.path.append(str(TESTS))

from drill_engine import fingerprint  # noqa: E402  which finds the tests' engine
from drill_results import Results  # noqa: E402
from potcars import write_potcars  # noqa: E402  of the tests, which are no package

from ccdcgan.dft.structures.decoding import decode_structure  # noqa: E402
from ccdcgan.launchers.workdir import embedded_store, relaxations_of  # noqa: E402

#: What the two campaigns have in common.
BOTH = """\
system: Cu-Au
seed: 3
workers: 1
database: {filters: {max_sites: 4}, max_candidates: 20, element_sites: 3, elements: own}
relaxation: {engine: {name: drill}, fmax: 0.3}
"""

#: Half a minute of one core, most of which are imports.
CAMPAIGN = f"""\
{BOTH}
networks: {{variant: dcgan, gan_steps: 30}}
loop: {{rounds: 1, samples: 24, relaxations: 2, screening: {{max_sites: 8}}}}
"""

#: A minute, with every stage that there is.
WHOLE = f"""\
{BOTH}
networks: {{gan_steps: 30, guide_epochs: 2}}
loop: {{rounds: 1, samples: 24, relaxations: 2, screening: {{prerelax: 5, max_sites: 8}}}}
"""

#: What a finished campaign goes on with: its best crystals by the tests' stand-in for VASP.
CONFIRM = """\
confirm:
  count: 2
  relaxation:
    engine: {name: vasp, polling: 0.1, stages: [relax], walltime: 0.05, frozen_after: 0.005}
    fmax: 0.005
    max_steps: 80
"""

#: Commands after which a campaign that has not ended counts as lost.
MOST_COMMANDS = 5


#: Age until which a process may not yet be what it becomes, s.
YOUNG = 5.0


@dataclass
class Run:
    """A campaign in a folder of its own.

    Attributes
    ----------
    folder
        A new one.
    whole
        Processor time of the undisturbed campaign, s; moments are fractions of it, as the time on
        the clock depends on what else the machine does.
    seed
        Of all that a fault draws.
    limit
        Longest time on the clock that its end may take, s.
    actions
        Commands that the campaign needed beyond its own.
    late
        Whether the campaign was over before the fault struck.
    broken
        Fingerprint and content key of the crystal that a fault may break: nothing that the
        campaign finds after it depends on it.
    """

    #: The campaign file.
    text: ClassVar[str] = CAMPAIGN

    folder: Path
    whole: float = 60.0
    seed: int = 0
    limit: float = 1200.0
    environment: dict[str, str] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    late: bool = False
    broken: tuple[str, str] = ("", "")
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.folder.mkdir(parents=True)
        self.random = random.Random(self.seed)
        self.process: subprocess.Popen[bytes] | None = None
        self._seen: dict[tuple[int, float], float] = {}
        self._ours: dict[tuple[int, float], bool] = {}
        self._stored: list[tuple[float, set[str]]] = []
        self.end = time.monotonic() + self.limit
        self.environment = {
            **self.environment,
            "DRILL_RUN": str(self.folder),
            "DRILL_LOG": str(self.folder / "begun"),
            "PYTHONPATH": os.pathsep.join(
                [str(HERE), str(_package(self.folder)), os.environ.get("PYTHONPATH", "")]
            ),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.file = self.folder / "small.yaml"
        self.file.write_text(self.text)
        self.stack.callback(self.kill)

    # What kinds of runs do each in their own way.

    def first(self) -> list[object]:
        """The command that runs the campaign, and goes on with it."""
        raise NotImplementedError

    def is_complete(self) -> bool:
        raise NotImplementedError

    def results_folder(self) -> Path:
        raise NotImplementedError

    def documents(self) -> list[dict[str, Any]]:
        """Of all relaxations."""
        raise NotImplementedError

    # What is the same for all.

    def start(self) -> None:
        """Run the campaign: the command that is waited for."""
        self.process = self.beside(self.first(), "said")

    def beside(
        self, words: Sequence[object], said_in: str = "said-beside", **environment: str
    ) -> subprocess.Popen[bytes]:
        """A command of ours in the background."""
        with (self.folder / said_in).open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "ccdcgan.launchers.cli", *map(str, words)],
                cwd=self.folder,
                env={**os.environ, **self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def command(self, *words: object) -> tuple[int, str]:
        """Status of a command of ours, and what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "ccdcgan.launchers.cli", *map(str, words)],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=self.limit,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    @property
    def is_over(self) -> bool:
        """Whether the command has ended."""
        return self.process is not None and self.process.poll() is not None

    def processes(self) -> list[psutil.Process]:
        """All that have come of the campaign's commands, also through a queue."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                name = (process.pid, process.create_time())
                if name not in self._ours:
                    ours = process.environ().get("DRILL_RUN") == str(self.folder)
                    # One that has just been born may still have its parent's environment.
                    if not ours and time.time() - name[1] < YOUNG:
                        continue
                    self._ours[name] = ours
                if self._ours[name]:
                    found.append(process)
        return found

    def seconds(self) -> float:
        """Processor time of all of them so far, as often as this is asked."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
        return sum(self._seen.values())

    def until(self, moment: float) -> None:
        """Wait until a fraction of the undisturbed campaign's processor time is spent."""
        self.wait_for(lambda: self.seconds() >= moment * self.whole)

    def wait_for(self, condition: Callable[[], object], seconds: float | None = None) -> bool:
        """Wait; whether it came before the command ended, or so many seconds on the clock."""
        end = min(self.end, time.monotonic() + (self.limit if seconds is None else seconds))
        while not condition():
            # Asked often, as it sees nothing of what has ended since.
            self.seconds()
            if self.is_over or time.monotonic() > end:
                self.late = self.late or seconds is None
                return False
            time.sleep(0.2)
        return True

    def remember(self) -> None:
        """Note what is stored now: none of it may be relaxed again."""
        with contextlib.suppress(Exception):
            self._stored.append((time.time(), {proposed(d) for d in self.documents()}))

    def kill(self) -> None:
        """End all that is left."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
                process.kill()

    def finish(self) -> bool:
        """Wait for the campaign's end, with the commands that it needs; whether it came."""
        for _ in range(MOST_COMMANDS):
            if not self.wait_for(lambda: self.is_over, self.limit) and not self.is_over:
                self.said.append("did not end")
                return False
            text = (self.folder / "said").read_text(errors="replace")
            assert self.process is not None
            lines = [line for line in text.splitlines() if line.strip()]
            self.said.append(f"{self.process.returncode}: {' '.join(lines[-1:])[:400]}")
            if self.process.returncode == 0 and self.is_complete():
                return True
            self.remember()
            self.act(text)
        return False

    def act(self, said: str) -> None:
        """Do what a message names, or else the same again."""
        self.actions.append("the same command again")
        self.start()

    def results(self) -> Results:
        """What the campaign ended with."""
        with gzip.open(self.results_folder() / "phases.json.gz") as stream:
            phases = json.load(stream)
        documents = self.documents()
        counts = Counter(d["key"] for d in documents)
        return Results(
            {p["id"]: (p["formula"], p["label"], p["energy_per_atom"]) for p in phases},
            {d["key"]: d["energy_per_atom"] if d["converged"] else None for d in documents},
            [key for key, count in counts.items() if count > 1],
        )

    def relaxed_again(self) -> list[str]:
        """Structures whose relaxation began again after its result was stored."""
        begun = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / "begun").read_text().splitlines():
                moment, _, name = line.partition(" ")
                begun.append((float(moment), name))
        return sorted({n for t, there in self._stored for m, n in begun if m > t and n in there})


def proposed(document: dict[str, Any]) -> str:
    """Fingerprint of what a relaxation document began with."""
    return fingerprint(decode_structure(document["initial_structure"]))


def _package(folder: Path) -> Path:
    """A folder where the engine is installed, as pip would have done it."""
    place = folder / "packages"
    metadata = place / "drill_engine-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: drill-engine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[ccdcgan.engines]\ndrill = drill_engine:DrillEngine\n"
    )
    return place


class Local(Run):
    """On this machine: ``ccdcgan run``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.workdir = self.folder / "run"

    def first(self) -> list[object]:
        return ["run", self.file, "--workdir", self.workdir]

    def is_complete(self) -> bool:
        return (self.workdir / "phases.json.gz").exists()

    def results_folder(self) -> Path:
        return self.workdir

    def documents(self) -> list[dict[str, Any]]:
        store: Any = relaxations_of(embedded_store(self.workdir))
        try:
            return list(store.query({}))
        finally:
            store.close()

    def children(self) -> list[psutil.Process]:
        """Processes that relax."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if any("spawn_main" in word for word in process.cmdline()):
                    found.append(process)
        return found


class Whole(Local):
    """A campaign with every stage."""

    text: ClassVar[str] = WHOLE


class Confirmed(Local):
    """The undisturbed campaign, which goes on with a confirmation by VASP's stand-in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        shutil.copytree(self.folder.parent / Local.__name__ / "run", self.workdir)
        self.file.write_text(self.text + CONFIRM)
        self.faults = self.folder / "faults.json"
        self.faults.write_text("{}")
        self.environment |= {
            "ATOMATE2_VASP_CMD": f"{sys.executable} {TESTS / 'vasp_stand_in.py'}",
            "PMG_VASP_PSP_DIR": str(write_potcars(self.folder / "psp", ["Cu", "Au"])),
            "VASP_STAND_IN_FAULTS": str(self.faults),
        }

    @property
    def confirmed(self) -> list[str]:
        """Content keys of what VASP has relaxed in the undisturbed run."""
        kept = self.folder.parent / Confirmed.__name__ / "run" / "calculations"
        return [path.name for path in kept.glob("*") if path.is_dir()]

    def is_complete(self) -> bool:
        """Whether VASP's part is written: the folder has results already."""
        return (self.workdir / "confirmed.json").exists()
