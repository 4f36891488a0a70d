"""A process that has loaded the engine and forks a child for every job.

Loading takes a second and the first call of each kernel another: a child that is killed, or that
may crash, should not have to pay for it.  The server itself never has a store open when it forks.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
JOB_S = 120.0


@dataclass
class Outcome:
    """How a job ended.

    Attributes
    ----------
    status : int
        Exit code of the child; negative for the signal that ended it.
    value : object
        What the job returned; None when it did not.
    error : str
        Traceback of what it raised; empty when it returned.
    """

    status: int
    value: Any = None
    error: str = ""

    def get(self) -> Any:
        """What the job returned; it must have."""
        assert self.status == 0, f"the job ended with {self.status}: {self.error}"
        return self.value


def die_with(parent: int) -> None:
    """Let the system end this process when its parent ends, however that comes about."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


class Server:
    """Starts jobs, which are functions of a module by name, with arguments that can be pickled."""

    def __init__(self, folder: Path, preload: Path | None = None) -> None:
        environment = dict(os.environ)
        if preload is not None:
            environment["LD_PRELOAD"] = str(preload)
        self._folder = folder
        self._jobs = 0
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.crash.server",
                tempfile.mkdtemp(dir=folder),
                str(os.getpid()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
        )
        assert self._answer() == "ready"

    def _tell(self, what: Any) -> Any:
        assert self._process.stdin
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        return pickle.load(self._process.stdout)

    def start(self, job: Callable[..., Any], *args: Any) -> Job:
        """Start a job."""
        self._jobs += 1
        result = self._folder / f"result-{self._jobs}"
        name = f"{job.__module__}:{job.__qualname__}"
        return Job(self, self._tell(("start", name, args, str(result))), result)

    def run(self, job: Callable[..., Any], *args: Any, seconds: float = JOB_S) -> Outcome:
        """Run a job to its end."""
        return self.start(job, *args).wait(seconds)

    def status(self, pid: int, seconds: float) -> int:
        """Wait for a child, so long at most."""
        return int(self._tell(("wait", pid, seconds)))

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout
        self._process.stdout.close()


@dataclass
class Job:
    """A running child."""

    server: Server
    pid: int
    result: Path

    def kill(self) -> None:
        """End the child at once."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = JOB_S) -> Outcome:
        """Wait for the child's end; after so many seconds it is ended."""
        status = self.server.status(self.pid, seconds)
        if not self.result.exists():
            return Outcome(status)
        value, error = pickle.loads(self.result.read_bytes())
        self.result.unlink()
        return Outcome(status, value, error)


def _run(name: str, args: Any, result: str) -> None:
    """Do a job in the child, which ends here."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    value, error, status = None, "", 0
    own = os.getpid()
    try:
        module, function = name.split(":")
        job: Any = importlib.import_module(module)
        for part in function.split("."):
            job = getattr(job, part)
        value = job(*args)
    except BaseException:  # noqa: BLE001 - told to who asked
        error, status = traceback.format_exc(), 1
    if os.getpid() != own:  # a child that the job forked came all the way up
        sys.stderr.write("" if "SystemExit: 0" in error else error)
        os._exit(0 if "SystemExit: 0" in error else 1)
    part = f"{result}.part"
    with open(part, "wb") as file:
        pickle.dump((value, error), file)
    os.rename(part, result)
    os._exit(status)


def _wait(pid: int, seconds: float) -> int:
    """Exit code of a child; one that takes longer is ended."""
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.2, 0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 1_000


def main() -> None:
    die_with(int(sys.argv[2]))
    from tests.crash import damage, lives, work

    server = os.getpid()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but answers may go there
    assert damage.work is lives.work is work
    work.prepare(Path(sys.argv[1]))
    pickle.dump("ready", out)
    out.flush()
    while True:
        try:
            verb, *what = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer = 0
        if verb == "start":
            answer = os.fork()
            if not answer:
                die_with(server)
                _run(*what)
        else:
            answer = _wait(*what)
        pickle.dump(answer, out)
        out.flush()


if __name__ == "__main__":
    main()
