"""Walking all pages of LMDB's file in a process of its own, which a broken page may crash.

The file format 0.9 has no checksums of pages: what can be seen is that the tree holds together,
its keys are in order and as many as it counts, and every value can be read.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import lmdb

_WALK = """
import sys
sys.path.append(sys.argv[2])
import lmdb
with lmdb.open(sys.argv[1], readonly=True, lock=False, lib_version=0) as facts:
    with facts.begin() as transaction:
        last, count = b"", 0
        for key, value in transaction.cursor():
            if key <= last:
                sys.exit("keys are out of order")
            last, count = key, count + 1
        if count != transaction.stat()["entries"]:
            sys.exit(f"{count} keys are found, {transaction.stat()['entries']} counted")
"""


def walk_facts(folder: Path) -> str:
    """Read all keys and values of an LMDB environment.

    Starting the process takes some 25 ms, a million keys about half a second, and values as long as
    reading them from the disk.  Nothing registers it as a reader: while others write, the caller
    keeps its pages with a read transaction begun before.

    Returns
    -------
    str
        What is wrong; empty when all is sound.
    """
    modules = str(Path(lmdb.__file__).parent.parent)
    command = [sys.executable, "-I", "-c", _WALK, str(folder), modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        name = signal.strsignal(-done.returncode) or f"signal {-done.returncode}"
        return f"the process that read them died ({name})"
    return (done.stderr.strip().splitlines() or ["they cannot be read"])[-1]
