"""The shim between a process and its C library: built once, and spoken to from within."""

from __future__ import annotations

import ctypes
import enum
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("shim.c")


class Kind(enum.IntFlag):
    """Calls that can be made to fail."""

    WRITE = 1
    SYNC = 2
    OPEN = 4
    RENAME = 8
    MMAP = 16
    UNLINK = 32


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(folder: Path) -> Path | None:
    """Compile the shim; None without a compiler, or on another system than Linux."""
    found = compiler()
    if found is None or sys.platform != "linux":
        return None
    target = folder / "shim.so"
    command = [found, "-O1", "-shared", "-fPIC", "-o", target, SOURCE, "-ldl", "-lpthread"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return target


@cache
def _library() -> Any:
    """The shim of this process, which must have been preloaded."""
    library = ctypes.CDLL(None)
    library.shim_seen.restype = ctypes.c_long
    library.shim_failed.restype = ctypes.c_char_p
    library.shim_arm.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long, ctypes.c_int]
    library.shim_fail.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    library.shim_mark.argtypes = [ctypes.c_char_p]
    return library


def arm(folder: Path, trace: Path | None = None, die_at: int = 0, in_commit: bool = False) -> None:
    """Watch the files under a folder, write a trace, end the process before its n-th change.

    With `in_commit` only those changes count that make a commit durable which was written.
    """
    _library().shim_arm(str(folder).encode(), str(trace or "").encode(), die_at, in_commit)


def fail(kinds: Kind, at: int, error: int, stays: bool = False) -> None:
    """Let the n-th call of some kinds fail, and with `stays` all later ones.

    Error 0 is a short write.
    """
    _library().shim_fail(int(kinds), at, error, stays)


def seen() -> int:
    """Calls of the kinds to fail since `fail`."""
    return int(_library().shim_seen())


def mark(text: str) -> None:
    """Put a mark into the trace."""
    _library().shim_mark(text.encode())


def failed() -> str:
    """File of the first call that failed; empty when none has."""
    return str(_library().shim_failed().decode())
