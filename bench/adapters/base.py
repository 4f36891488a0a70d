"""The contract of an adapter: what the harness asks of a library.

Adapters import their library inside methods only, so that the parent process can read the class
attributes without loading anything. An adapter lives in a process of its own, twice: once to
build and close, once to open and be queried.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Ids = NDArray[np.int64]

Params = dict[str, int | float]

BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Task:
    """What is built and asked.

    Attributes
    ----------
    metric : str
        ``"l2"``, ``"cosine"`` or ``"ip"``.
    k : int
        Neighbours per query.
    workdir : Path
        The folder that belongs to this (adapter, dataset) alone.
    threads : int
        Threads the library may use in this process.
    recalls : tuple of float
        Recall targets, for libraries that are asked by recall.
    """

    metric: str
    dim: int
    rows: int
    k: int
    workdir: Path
    threads: int
    recalls: tuple[float, ...]


class Adapter(ABC):
    """One library in one configuration."""

    #: Modules imported first; a missing one makes the adapter skip.
    modules: ClassVar[tuple[str, ...]]
    #: Dependencies that the library loads late; imported next, so that they too count as imports.
    lazy_modules: ClassVar[tuple[str, ...]] = ()
    #: Distributions whose versions are recorded.
    packages: ClassVar[tuple[str, ...]]
    #: Build parameters, recorded with the results and compared before an index is reused.
    build_params: ClassVar[dict[str, Any]] = {}

    def __init__(self, task: Task) -> None:
        self.task = task

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        """Environment variables of the process that hosts the library."""
        return {}

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Versions of the distributions behind this adapter."""
        found = {}
        for package in cls.packages:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = "unknown"
        return found

    @classmethod
    def code(cls) -> str:
        """What tells builds apart that versions do not; compared before one is reused."""
        return ""

    def load(self, module: str) -> Any:
        """Import a module of the library."""
        return importlib.import_module(module)

    @abstractmethod
    def build(self, base: Vectors) -> None:
        """Index all rows of ``base`` (n, d); row i has id i; everything on disk on return."""

    @abstractmethod
    def open(self) -> None:
        """Open what `build` wrote (timed, in a fresh process)."""

    @abstractmethod
    def points(self) -> list[Params]:
        """The sweep: parameter points in order of effort."""

    @abstractmethod
    def select(self, params: Params) -> None:
        """Make a parameter point the current one (not timed)."""

    def rows(self, queries: Vectors) -> list[Any]:
        """Queries (n, d) in the form the library's per-query call takes (not timed)."""
        return list(queries)

    @abstractmethod
    def call(self) -> Callable[[Any], Any]:
        """The library's usual call for one query at the current point: exactly what is timed."""

    @abstractmethod
    def ids(self, answer: Any) -> Any:
        """The ids (at most k) in an answer of `call` (not timed)."""

    @abstractmethod
    def batch(self, queries: Vectors) -> Any:
        """Ids (n, k) for many queries with ``task.threads`` threads (timed as a whole)."""

    def close(self) -> None:
        """Release the library's objects, if it has a call for that."""
        return None

    def info(self) -> dict[str, Any]:
        """What the library says about itself; JSON values, stored with the results."""
        return {}

    def disk_bytes(self) -> int:
        """Bytes on disk below the work folder (allocated, so that holes do not count)."""
        files = (path for path in self.task.workdir.rglob("*") if path.is_file())
        return sum(path.stat().st_blocks * 512 for path in files)


def normalised(vectors: Vectors) -> Vectors:
    """Rows divided by their length, for libraries that have no cosine of their own."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return cast("Vectors", vectors / np.maximum(lengths, np.float32(1e-30)))


def blocks(base: Vectors, normalise: bool) -> Any:
    """Yield ``(first_row, rows)`` of ``base`` in blocks, normalised when asked."""
    import numpy as np

    for start in range(0, len(base), BLOCK_ROWS):
        rows = np.ascontiguousarray(base[start : start + BLOCK_ROWS], dtype=np.float32)
        yield start, normalised(rows) if normalise else rows
