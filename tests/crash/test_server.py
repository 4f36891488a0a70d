"""The server of jobs: nothing of it outlives the process that asked for them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.crash.server import ROOT

TESTER = """
import sys
from pathlib import Path
from time import sleep
from tests.crash.server import Server

server = Server(Path(sys.argv[1]))
job = server.start(sleep, 600)
print(server._process.pid, job.pid, flush=True)
sleep(600)
"""


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended may still wait for its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_jobs_end_with_the_tester(tmp_path: Path) -> None:
    tester = subprocess.Popen(
        [sys.executable, "-c", TESTER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert tester.stdout
    pids = [int(pid) for pid in tester.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(is_there, pids))
    tester.kill()
    tester.wait()
    tester.stdout.close()
    deadline = time.monotonic() + 60
    while any(map(is_there, pids)):
        assert time.monotonic() < deadline, f"of {pids} one still runs"
        time.sleep(0.01)
