"""Queues of clusters behind one interface: Slurm, PBS and SGE, and what FireWorks knows besides.

Commands are the queue's own, and so are the patterns of what they answer; a message that is not
known is never an error here, so that a newer queue's words do no harm.
"""

from __future__ import annotations

import getpass
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cluster.settings import Queue

#: Timeout of a command of the queue, s.
TIMEOUT = 120.0

#: Why a queue takes no job: the settings are wrong; a limit of jobs is reached; it did not
#: answer, and may have taken the job all the same; or in words that are not known, like that.
Kind = Literal["wrong", "full", "away", "unknown"]


class QueueAwayError(UserError):
    """The queue does not tell which jobs it has."""


class QueueHangsError(QueueAwayError):
    """It does not answer at all."""


class RefusedError(UserError):
    """The queue takes no job."""

    def __init__(self, message: str, kind: Kind) -> None:
        super().__init__(message)
        self.kind = kind


class Answer(NamedTuple):
    """What a command of the queue says."""

    code: int
    text: str
    complaint: str

    @property
    def words(self) -> str:
        """What there is to tell a person, in one line."""
        return " ".join((self.complaint or self.text).split())[:300]


class QueueJob(NamedTuple):
    """A job that waits or runs: its name, if the list has it whole, and what the queue says."""

    name: str | None
    said: str


class Scheduler:
    """A queue of a kind that has no class of its own here: what all commands have in common."""

    #: Words, in lower case, of a refusal that lasts until somebody mends the settings.
    wrong: ClassVar[str] = r"unknown queue|invalid (queue|account|partition|project)"
    #: Of one that ends with other jobs.
    full: ClassVar[str] = r"job limit|too many jobs"
    #: Of a queue that was not reached.
    away: ClassVar[str] = (
        r"timed out|unable to contact|cannot connect|can't connect|connection refused"
        r"|temporarily (un)?a|not connected|end of file|try again later|zero bytes|standby mode"
    )
    #: Where the number of a job stands in the answer to a submission.
    number: ClassVar[str] = r"(\d+)"
    #: What a list says of a job that never starts by itself, and the commands that help.
    held: ClassVar[str] = r"(?!)"
    remedies: ClassVar[str] = ""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        commands = CommonAdapter.default_q_commands[kind]
        self.submit_command, self.list_command = commands["submit_cmd"], commands["status_cmd"]

    def cluster(self) -> str:
        """What tells this queue from that of another cluster."""
        return socket.gethostname()

    def submit(self, script: Path) -> str:
        """Submit a script from its folder; the number of the job.

        Raises
        ------
        RefusedError
            It was not taken, or nobody knows.
        """
        try:
            ended = self._submitted(script)
        except QueueAwayError as error:
            raise RefusedError(str(error), "away") from None
        if ended.code:
            raise RefusedError(
                f"the queue rejects the job: {ended.words}",
                self.kind_of(f"{ended.complaint} {ended.text}"),
            )
        found = re.search(self.number, ended.text)
        if found is None:
            raise RefusedError(
                f"{self.submit_command} gave no number of a job, but: {ended.words}", "unknown"
            )
        return found[1]

    def kind_of(self, words: str) -> Kind:
        """What kind of refusal the words of a queue are."""
        # A queue that is not reached, in whole or in part, may deny whatever it is asked.
        kinds: dict[Kind, str] = {"away": self.away, "wrong": self.wrong, "full": self.full}
        low = " ".join(words.lower().split())
        return next((kind for kind, words in kinds.items() if re.search(words, low)), "unknown")

    def jobs(self) -> dict[str, QueueJob]:
        """Jobs of this user that wait or run, by number.

        Raises
        ------
        QueueAwayError
            The queue does not tell.
        """
        return self._listed(ask(self._list()))

    def named(self, name: str, listed: Mapping[str, QueueJob]) -> str | None:
        """Number of the job of a name, if the queue has it and tells names."""
        return next((number for number, job in listed.items() if job.name == name), None)

    def obstacle(self, number: str, job: QueueJob) -> str | None:
        """What keeps a listed job from starting until somebody acts, and how; None of others."""
        found = re.search(self.held, job.said)
        if found is None:
            return None
        return f"queue job {number} does not start ({found[0]}): {self.remedies.format(number)}"

    def is_over(self, number: str) -> bool | None:
        """Whether a job has ended, asked by its number; None if the queue does not know it."""
        return None

    def _submitted(self, script: Path) -> Answer:
        # LSF reads its directives from the standard input only.
        if self.kind == "LoadSharingFacility":
            return run([self.submit_command], script.parent, script.read_text())
        return run([self.submit_command, script.name], script.parent)

    def _list(self) -> list[str]:
        return [self.list_command, "-u", getpass.getuser()]

    def _listed(self, text: str) -> dict[str, QueueJob]:
        found = re.findall(r"^\s*(\d+)(.*)", text, re.MULTILINE)
        return {number: QueueJob(None, " ".join(rest.split())) for number, rest in found}


class Slurm(Scheduler):
    """Slurm."""

    wrong = (
        r"invalid (partition|account|qos|feature|generic|job|node|gres|license)"
        r"|requested (time limit|node configuration)|partition not available|limit is invalid"
        r"|max\w*perjob\w*limit|min\w*limit|invalidaccount|unrecognized option"
        r"|access/permission denied"
    )
    full = r"(max|grp)\w*submit\w*(limit|per)|(max|grp)\w*jobs\w*(limit|per)"
    # The last two are of munge, and of the service that knows users.
    away = Scheduler.away + r"|protocol authentication error|invalid user id"
    number = r"Submitted batch job (\d+)"
    held = r"(?i)^pending .*(held|jobhold|badconstraints|neversatisfied|partition\w*limit).*"
    remedies = "scontrol release {0}, or scancel {0}"
    #: States in which a job does nothing any more.
    over: ClassVar[set[str]] = {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
    }

    def cluster(self) -> str:
        """Name of the cluster and of its controller: many clusters are called just that."""
        text = ask(["scontrol", "show", "config"])
        told = dict(re.findall(r"^(\S+) *= ([^\s(]+)", text, re.MULTILINE))
        return f"{told.get('ClusterName', 'slurm')}@{told.get('SlurmctldHost[0]', '')}"

    def is_over(self, number: str) -> bool | None:
        """See `Scheduler`; by ``scontrol``, then, if there is one, by ``sacct``."""
        told = run(["scontrol", "show", "job", "-o", number])
        if told.code and "invalid job id" not in told.words.lower():
            raise QueueAwayError(f"the queue does not answer: scontrol says {told.words}")
        if state := re.search(r"\bJobState=(\w+)", told.text):
            return state[1] in self.over
        if shutil.which("sacct") is None:
            return None
        states = run(["sacct", "-n", "-X", "-P", "-o", "State", "-j", number]).text.split()
        # One that counts as running there, and that Slurm itself does not know, may be long gone.
        return True if states and states[0] in self.over else None

    def _list(self) -> list[str]:
        return [self.list_command, "-u", getpass.getuser(), "-h", "-o", "%i|%j|%T %r"]

    def _listed(self, text: str) -> dict[str, QueueJob]:
        lines = (line.split("|", 2) for line in text.splitlines())
        return {
            words[0].strip(): QueueJob(words[1], words[2])
            for words in lines
            if len(words) == 3 and words[0].strip().isdigit()
        }


class PBS(Scheduler):
    """OpenPBS, PBS Pro and TORQUE."""

    wrong = (
        r"unknown queue|not enabled|unknown resource|illegal|invalid (account|group)"
        r"|unauthorized|no permission|access to queue is denied|cannot be used|bad uid"
        r"|violates queue|exceeds allowable|rejected by all possible"
    )
    full = r"would exceed|maximum number of jobs|job limit"
    away = Scheduler.away + r"|invalid credential"
    number = r"^(\d+)"
    held = r"\bH(?= \S+$)"
    remedies = "qrls {0}, or qdel {0}"
    over: ClassVar[frozenset[str]] = frozenset("CFX")

    def cluster(self) -> str:
        """Name of the server."""
        found = re.search(r"^Server: (\S+)", ask([self.list_command, "-B", "-f"]), re.MULTILINE)
        return found[1] if found else super().cluster()

    def named(self, name: str, listed: Mapping[str, QueueJob]) -> str | None:
        """See `Scheduler`; lists have names cut short."""
        text = ask(["qselect", "-u", getpass.getuser(), "-N", name])
        found = re.search(r"^(\d+)", text, re.MULTILINE)
        return found[1] if found else None

    def is_over(self, number: str) -> bool | None:
        """See `Scheduler`; by ``qstat -f``."""
        told = run([self.list_command, "-f", number])
        if "has finished" in told.words:
            return True
        if told.code and "unknown job" not in told.words.lower():
            raise QueueAwayError(f"the queue does not answer: qstat says {told.words}")
        state = re.search(r"job_state = (\w)", told.text)
        return state[1] in self.over if state else None

    def _listed(self, text: str) -> dict[str, QueueJob]:
        listed = super()._listed(text)
        # The last columns are state and time; TORQUE lists ended jobs for a while.
        return {
            number: job
            for number, job in listed.items()
            if not self.over.intersection(job.said.split()[-2:-1])
        }


class SGE(Scheduler):
    """Grid Engine: Sun's, and those that followed it."""

    wrong = (
        r"unknown (queue|resource)|does not exist|denied|not allowed as objectname|lower than min"
        r"|no suitable queues|invalid option|not a submit host"
    )
    full = r"only \d+ jobs are allowed|job limit"
    away = Scheduler.away + r"|commlib|unable to send message|failed receiving"
    number = r"Your job (\d+)"
    held = r"^\w*[Eh]\w*w\w*$"
    remedies = "qmod -cj {0} clears an error, qrls {0} a hold; or qdel {0}"

    def cluster(self) -> str:
        """Host of the queue's master."""
        return ask(["qconf", "-sss"]).strip() or super().cluster()

    def is_over(self, number: str) -> bool | None:
        """See `Scheduler`; by ``qstat -j``, which knows no ended jobs."""
        told = run([self.list_command, "-j", number])
        if not told.code and "job_number" in told.text:
            return False
        if "do not exist" in f"{told.text} {told.complaint}":
            return None
        raise QueueAwayError(f"the queue does not answer: qstat says {told.words}")

    def _list(self) -> list[str]:
        return [self.list_command, "-xml", "-u", getpass.getuser()]

    def _listed(self, text: str) -> dict[str, QueueJob]:
        if "</job_info>" not in text:
            raise QueueAwayError(f"the queue does not answer: qstat says {text[:200]!r}")
        found = {}
        for job in re.findall(r"<job_list.*?</job_list>", text, re.DOTALL):
            told = dict(re.findall(r"<(\w+)[^>]*>([^<]*)</\1>", job))
            found[told["JB_job_number"]] = QueueJob(told.get("JB_name"), told.get("state", ""))
        return found


KINDS: Mapping[str, type[Scheduler]] = {"SLURM": Slurm, "PBS": PBS, "SGE": SGE}


def scheduler_of(queue: Queue) -> Scheduler:
    """The queue that the settings name."""
    return KINDS.get(queue.type, Scheduler)(queue.type)


def ask(command: Sequence[str]) -> str:
    """What the queue answers to a question.

    Raises
    ------
    QueueAwayError
        It does not answer, or with an error.
    """
    ended = run(command)
    if ended.code:
        raise QueueAwayError(f"the queue does not answer: {' '.join(command)} says {ended.words}")
    return ended.text


def run(command: Sequence[str], folder: Path | None = None, text: str | None = None) -> Answer:
    """Run a command of the queue.

    Raises
    ------
    UserError
        There is none of this name here.
    QueueAwayError
        It does not end in time.
    """
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            input=text,
            # None: whatever launched us does not wait for an answer.
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            # A message need not be in UTF-8.
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(
            f"there is no {command[0]!r} on this machine: launch on a node of the cluster, "
            "or change the queue's type in my_fireworks.yaml"
        ) from None
    except subprocess.TimeoutExpired:
        raise QueueHangsError(
            f"the queue does not answer: {command[0]} timed out after {TIMEOUT:g} s"
        ) from None
    return Answer(ended.returncode, ended.stdout, ended.stderr)
