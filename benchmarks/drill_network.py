"""A network and commands of a queue that fail when the drill wants them to."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from pathlib import Path

import psutil

#: What a wrapper does instead of the real command, once for each line of its file.
WRAPPER = """\
#!/bin/sh
# Once for each line of {todo}, which goes: what it says is done in place of the command.
if [ -s {todo} ]; then
    first=$(head -n 1 {todo})
    sed -i 1d {todo}
    case "$first" in
        refuse) echo "{name}: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1;;
        lost) {real} "$@" >/dev/null; echo "{name}: error: Socket timed out" >&2; exit 1;;
        hang) sleep 130; exit 1;;
        empty) exit 0;;
    esac
fi
exec {real} "$@"
"""


def wrapped(folder: Path, name: str, *instead: str) -> Path:
    """A folder for PATH with a command that does other things first.

    Parameters
    ----------
    instead
        ``refuse``, ``lost`` (done, but the answer does not come), ``hang`` or ``empty``.

    Returns
    -------
    The file whose lines are what is still to be done instead.
    """
    folder.mkdir(exist_ok=True)
    todo = folder / f"{name}.todo"
    todo.write_text("".join(f"{line}\n" for line in instead))
    script = folder / name
    script.write_text(WRAPPER.format(name=name, todo=todo, real=shutil.which(name)))
    script.chmod(0o755)
    return todo


class Network:
    """What lies between a campaign and its database.

    Attributes
    ----------
    delay
        Seconds that each piece of data takes.
    hole
        Whether data vanish: connections stay, and nothing comes.
    workers_only
        Whether the hole is there for processes of queue jobs alone.
    """

    def __init__(self, port: int) -> None:
        self.delay, self.hole, self.workers_only = 0.0, False, False
        self._there = port
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def cut(self) -> None:
        """Break all connections off."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def close(self) -> None:
        """Break all connections off, and take no others."""
        self._listening.close()
        self.hole = False
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, (_, port) = self._listening.accept()
            except OSError:
                return
            of_worker = _is_of_queue_job(port)
            try:
                server = socket.create_connection(("127.0.0.1", self._there))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(*pair, of_worker), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, of_worker: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.delay)
                while self.hole and (of_worker or not self.workers_only):
                    time.sleep(0.1)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.close()


def _is_of_queue_job(port: int) -> bool:
    """Whether the process that has a port of this machine belongs to a queue job."""
    for connection in psutil.net_connections("tcp4"):
        if connection.laddr and connection.laddr.port == port and connection.pid:
            with contextlib.suppress(psutil.Error):
                return "SLURM_JOB_ID" in psutil.Process(connection.pid).environ()
    return False
