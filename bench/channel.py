"""A child process of the harness: started fresh, spoken to through a socket pair.

Libraries write to stdout from C++, so messages have a descriptor of their own and everything the
child prints goes to a log file, whose end is quoted when the child fails.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LOG_TAIL_CHARS = 1500
BUILD_TIMEOUT_S = 4 * 3600.0
ANSWER_TIMEOUT_S = 1800.0


class BenchError(RuntimeError):
    """A benchmark that cannot run; the message says why and what to do."""


class UnavailableError(BenchError):
    """A library that is not installed, or that refuses to work here: its adapter is skipped."""


def thread_environment(threads: int) -> dict[str, str]:
    """Environment that keeps OpenMP, BLAS, Numba and Rayon to ``threads`` threads."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA", "RAYON")
    return {f"{name}_NUM_THREADS": str(threads) for name in names}


class Child:
    """A worker process (``python -m bench.worker`` or the like) and the connection to it.

    Parameters
    ----------
    log : Path
        File that receives what the child prints.
    environment : Mapping
        Variables added to this process's environment.
    groups : sequence of Path
        Control groups that the child joins before it is anything but a copy of this process.
    module : str
        What the child runs.
    """

    def __init__(
        self,
        log: Path,
        environment: Mapping[str, str],
        groups: Sequence[Path] = (),
        module: str = "bench.worker",
    ) -> None:
        self.log = log
        mine, theirs = socket.socketpair()
        path = os.pathsep.join(p for p in (str(REPOSITORY), os.environ.get("PYTHONPATH")) if p)
        command = [sys.executable, "-m", module, str(theirs.fileno())]

        def join() -> None:
            """Join the groups, so that they are charged for the interpreter too."""
            for group in groups:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                preexec_fn=join if groups else None,
            )
        theirs.close()
        self._connection: Connection[Any, Any] = Connection(mine.detach())

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command and wait for its answer.

        Raises
        ------
        UnavailableError
            The child could not import or use its library.
        BenchError
            The child raised, died or hung; the message quotes it.
        """
        try:
            self._connection.send((command, arguments))
            timeout_s = BUILD_TIMEOUT_S if command == "build" else ANSWER_TIMEOUT_S
            if not self._connection.poll(timeout_s):
                self._process.kill()
                raise BenchError(f"No answer to {command!r} in {timeout_s:.0f} s: {self._tail()}")
            kind, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            status = self._process.wait()
            killed = " (killed, as the kernel does at a memory limit)" if status == -9 else ""
            raise BenchError(
                f"The worker died during {command!r} with status {status}{killed}: {self._tail()}"
            ) from error
        if kind == "unavailable":
            raise UnavailableError(str(answer))
        if kind == "error":
            raise BenchError(f"{command!r} failed: {answer}")
        return answer

    def _tail(self) -> str:
        text = self.log.read_text("utf-8", errors="replace").strip()
        return text[-LOG_TAIL_CHARS:] or "it printed nothing"

    def close(self) -> None:
        """End the child; harmless when it has ended."""
        self._connection.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
