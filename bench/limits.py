"""Cold measurements: a memory cgroup for the child process, and files put out of the page cache.

Needs root and Linux (cgroup v1 or v2). Without them `memory_group` says so with a ``BenchError``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.channel import BenchError

_ROOT = Path("/sys/fs/cgroup")


def _create(name: str, limit_bytes: int) -> Path:
    v2 = (_ROOT / "cgroup.controllers").exists()
    group = _ROOT / name if v2 else _ROOT / "memory" / name
    group.mkdir()
    (group / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(limit_bytes))
    return group


@contextmanager
def memory_group(name: str, limit_bytes: int | None) -> Iterator[Path | None]:
    """A memory cgroup that lives as long as the block; None without a limit.

    Parameters
    ----------
    name : str
        Name of the group, unique among running benchmarks.
    limit_bytes : int or None
        Limit on anonymous memory and page cache together.

    Raises
    ------
    BenchError
        The kernel or the rights do not allow it.
    """
    if limit_bytes is None:
        yield None
        return
    try:
        group = _create(name, limit_bytes)
    except OSError as error:
        raise BenchError(
            f"Cannot create a memory cgroup of {limit_bytes} bytes ({error}); run as root on "
            "Linux with the memory controller mounted, or leave out --memory-limit."
        ) from error
    try:
        yield group
    finally:
        group.rmdir()


def drop_cache(folder: Path) -> None:
    """Ask the kernel to forget all cached pages of the files below ``folder``.

    Pages that a living process has mapped stay, so call this before the index is opened.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
