"""Whose fault a failure is: the crystal's, the machine's, or of somebody who stopped the run.

A crystal's failure is stored as its result. A fault of the machine would be every crystal's: it is
stored for none, and ends the job with one line that says what to mend.
"""

from __future__ import annotations

import errno
import re
import socket
from pathlib import Path
from typing import Literal, NamedTuple

from ccdcgan.dft.errors import UserError

FailureClass = Literal["crystal", "stopped"]


class MachineError(UserError):
    """The machine cannot compute, whatever the crystal; the work done so far is kept."""

    #: What of it has failed, where that is known.
    fault: MachineFault | None = None


class _Fault(NamedTuple):
    """Words of a fault of the machine, and what to do."""

    words: str
    remedy: str


#: What may be the crystal's fault after all: large cells need much.
MEMORY = "memory"

#: What Slurm, MPI, shells, the system and the codes write, by what has to be mended.
FAULTS: dict[str, _Fault] = {
    "disk": _Fault(
        r"No space left on device|Dis[ck] quota exceeded|disk full|ENOSPC|EDQUOT|File too large"
        r"|error during write|severe \(38\)",
        "free space there",
    ),
    "file system": _Fault(
        r"Stale file handle|Read-only file system|Input/output error|Remote I/O error"
        r"|Transport endpoint is not connected|Too many open files",
        "mend the disk or its mount",
    ),
    MEMORY: _Fault(
        r"oom[-_ ]?kill|Out[ -]Of[ -]Memory|Cannot allocate memory|std::bad_alloc|MemoryError"
        r"|insufficient virtual memory|severe \(41\)|DefaultCPUAllocator"
        r"|exit(ed)? (code|status) 137"
        r"|could not allocate|allocation (would exceed|failed)|exceeded (step |job )?memory limit",
        "give the job more memory, or fewer processes",
    ),
    "queue": _Fault(
        r"Unable to (create step|confirm allocation|allocate resources)|NODE[_ ]FAIL(URE)?"
        r"|Job credential (expired|revoked)|Invalid (account|job credential|partition)"
        r"|Requested node configuration is not available|Socket timed out"
        r"|task launch (for .*)?failed|launch failed|error: Application launch failed"
        r"|slurm_receive_msg|contact slurm controller|Munge \w+ failed|DUE TO PREEMPTION",
        "look at the node and the queue",
    ),
    "network of the nodes": _Fault(
        r"UCX +ERROR|ibv_\w+|PSM2|Transport retry count exceeded|OFI .*(fail|error)"
        r"|PMIX? (ERROR|server)|ORTE (has lost|was unable)|MPI_Init.*(fail|error)"
        r"|Fatal error in (PMPI|internal)_Init|mpirun was unable"
        r"|ssh: connect to host|Host key verification failed|NCCL error",
        "look at the node and its network",
    ),
    "installation": _Fault(
        r"error while loading shared libraries|cannot open shared object file|command not found"
        r"|Exec format error|[Ii]llegal instruction|execve\(\)|version `\S+' not found"
        r"|No such file or directory.*(vasp|pw\.x|srun|mpirun)"
        r"|(vasp|pw\.x)\S*: (not found|Permission)|execvp error|cannot execute binary file"
        r"|symbol lookup error|undefined symbol|not built with (SLURM|PMI)"
        r"|not enough slots available|PMI2?_(Init|Job)\w* (failed|returned)"
        r"|Please verify that both the operating system and the processor support",
        "load the modules or correct the command",
    ),
    "licence": _Fault(
        r"[Ll]icen[cs]e (server|checkout|manager|expired)|FLEX(lm|net)", "mend the licence"
    ),
    "accelerator": _Fault(
        r"CUDA[_ ]ERROR|CUDA error|CUDA driver|no CUDA-capable device|cuInit|NVRM"
        r"|no kernel image is available|Found no NVIDIA driver|CUBLAS_STATUS_|CUDNN_STATUS_"
        r"|hipError\w+|cuMemAlloc.*(fail|out of memory)",
        "look at the node's accelerator",
    ),
}

_FAULTS = {name: re.compile(f.words, re.IGNORECASE) for name, f in FAULTS.items()}

_ERRNO = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.EFBIG: "disk",
    errno.EIO: "file system",
    errno.EROFS: "file system",
    errno.ESTALE: "file system",
    errno.ENOTCONN: "file system",
    errno.EMFILE: "file system",
    errno.ENFILE: "file system",
    errno.ENOMEM: MEMORY,
}


class MachineFault(NamedTuple):
    """A fault of the machine: what, and in whose words."""

    what: str
    words: str

    @property
    def is_memory(self) -> bool:
        """Whether it may be the crystal's after all."""
        return self.what == MEMORY

    @property
    def remedy(self) -> str:
        return FAULTS[self.what].remedy if self.what in FAULTS else "look there"

    def error(self, folder: Path) -> MachineError:
        """The line that ends a job."""
        found = MachineError(
            f"{self.what} of {socket.gethostname()}, in {folder}: {self.words!r}: "
            f"{self.remedy}, then go on with the same command or ccdcgan retry"
        )
        found.fault = self
        return found


def machine_fault(error: BaseException | None, text: str) -> MachineFault | None:
    """What of the machine has failed, by an exception and what was written; None if nothing has.

    Parameters
    ----------
    error
        What Python saw, if anything; its causes are looked at, too.
    text
        Output of the code and of what started it: all lines, newest last.
    """
    seen = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _ERRNO:
            return MachineFault(_ERRNO[seen.errno], " ".join(str(seen).split())[:200])
        if isinstance(seen, MemoryError):
            return MachineFault(MEMORY, "MemoryError")
        seen = seen.__cause__ or seen.__context__
    if error is not None:
        text = f"{text}\n{error}"
    for line in reversed(text.splitlines()):
        for name, pattern in _FAULTS.items():
            if pattern.search(line):
                return MachineFault(name, " ".join(line.split())[:200])
    # A shell's or srun's word on SIGKILL, which nobody but the kernel sends unasked.
    for line in reversed(text.splitlines()):
        if re.search(r"(^|[:\s])Killed\b", line):
            return MachineFault(MEMORY, " ".join(line.split())[:200])
    return None
