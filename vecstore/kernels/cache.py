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
from numba.core.runtime import rtsys

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


@lru_cache
def _is_writable(path: Path) -> bool:
    """Tell whether compiled kernels can be kept in a folder, which is made if it is missing."""
    try:
        _KernelLocator(path, 0).ensure_cache_path()
    except OSError:
        return False
    return True


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
            if _is_writable(path):
                return cls(path, py_func.__code__.co_firstlineno)
        return None


caching.CacheImpl._locator_classes.insert(0, _KernelLocator)


class _KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """Loads compiled kernels without all that Numba needs only to compile.

    Before it looks into a cache, Numba loads its implementations of Python and numpy, and scipy if
    it is there: 0.3 s and 22 MB, where the kernels of a query take 0.05 s and 7 MB.  Compiling
    loads them by itself.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # what compiled code refers to
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def _compile(function: F, counts: bool) -> F:
    options = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}
    compiled = numba.njit(**options, _nrt=counts)(function)
    compiled._cache = _KernelCache(function)
    return compiled  # type: ignore[no-any-return]


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
