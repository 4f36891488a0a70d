"""How much memory there is for cached pages of files, as far as the system tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def memory_bytes(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """Memory that this process can fill with pages of files; 0 where nothing tells.

    That is what the system has available, or what the smallest limit of its control groups
    (version 1 or 2) allows.
    """
    with suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text("ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return min([1024 * int(value.split()[0]), *_limits(proc, groups)])
    return 0


def _limits(proc: Path, groups: Path) -> Iterator[int]:
    """Limits of the control groups that this process is in."""
    try:
        lines = (proc / "self" / "cgroup").read_text("utf8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = groups / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            folder = root / path.strip("/")
            for place in (folder, *folder.parents):
                with suppress(OSError, ValueError):  # "max" is none; a container sees its own only
                    yield int((place / name).read_text("ascii"))
                if place == root:
                    break
