"""Compiling kernels once per machine: the decorator, and where compiled code is kept."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import caching

F = TypeVar("F", bound=Callable[..., Any])

FAST_MATH = {"contract", "reassoc", "nsz", "arcp"}
"""No nnan and no ninf: infinities mark empty places and NaN must be noticed."""


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Hash of every kernel source, the constants compiled in, and the compiler's versions."""
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    folder = Path(__file__).parent
    for path in [*sorted(folder.glob("*.py")), folder.parent / "config.py"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Folder of compiled kernels (``VECSTORE_CACHE`` overrides the user's cache folder)."""
    root = os.environ.get("VECSTORE_CACHE")
    if root:
        return Path(root) / "kernels" / source_hash()
    if sys.platform == "darwin":
        user = Path.home() / "Library" / "Caches"
    else:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return user / "vecstore" / "kernels" / source_hash()


class _KernelLocator(caching._CacheLocator):  # type: ignore[misc]
    """Keeps vecstore's kernels under `cache_folder`, whatever file they stand in."""

    def __init__(self, path: Path, line: int) -> None:
        self._path = path
        self._line = line

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _KernelLocator | None:
        if Path(py_file).parent != Path(__file__).parent:
            return None
        for path in (cache_folder(), Path(tempfile.gettempdir()) / f"vecstore-{os.getuid()}"):
            locator = cls(path, py_func.__code__.co_firstlineno)
            try:
                locator.ensure_cache_path()
            except OSError:
                continue
            return locator
        return None


caching.CacheImpl._locator_classes.insert(0, _KernelLocator)


def _compile(function: F, counts: bool) -> F:
    options = {"nogil": True, "fastmath": FAST_MATH, "cache": True, "error_model": "numpy"}
    return numba.njit(**options, _nrt=counts)(function)  # type: ignore[no-any-return]


def kernel(function: F) -> F:
    """Compile `function` without the GIL, with contracted arithmetic, cached on disk.

    Kernels do not count references to their arrays, which the caller keeps alive: every call of
    one kernel by another would otherwise begin and end with an atomic addition for each array
    (numba issues 2345 and 2350), 100 ns a row of an exact scan.
    """
    return _compile(function, False)


def allocating_kernel(function: F) -> F:
    """Compile a kernel that makes arrays of its own, like `kernel` but with references counted."""
    return _compile(function, True)
