"""DiskANN (diskannpy): a graph on disk, read with direct reads past the page cache."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from bench.adapters.base import Adapter, Params, normalised

if TYPE_CHECKING:
    from bench.adapters.base import Vectors

_GB = 2.0**30
_PQ_BYTES_PER_DIM = 0.25
_LIST_SWEEP = (10, 20, 30, 40, 60, 80, 120, 160, 240, 320)
_BEAM_SWEEP = (2, 4, 8)
_ROWS_PER_CACHED_NODE = 20


class DiskAnn(Adapter):
    """Graph degree 64, list 100 at build; the sweep is over the search list and the beam width.

    One node in 20 is kept in memory: those that searches for a sample of the rows pass most. A
    query is ``batch_search`` of one row: the single ``search`` of diskannpy 0.7 returns wrong ids
    with NumPy 2. Cosine is L2 on normalised rows, the same order; inner product is refused.
    """

    modules = ("numpy", "diskannpy")
    packages = ("diskannpy",)
    build_params: ClassVar[dict[str, Any]] = {"graph_degree": 64, "complexity": 100}

    def build(self, base: Vectors) -> None:
        import numpy as np

        if self.task.metric == "ip":
            raise ImportError("diskannpy's disk index has no inner product that returns all rows")
        rows = np.ascontiguousarray(base)
        self.load("diskannpy").build_disk_index(
            data=normalised(rows) if self.task.metric == "cosine" else rows,
            distance_metric="l2",
            index_directory=str(self.task.workdir),
            search_memory_maximum=self.task.rows * self.task.dim * _PQ_BYTES_PER_DIM / _GB,
            build_memory_maximum=8.0,
            num_threads=self.task.threads,
            **self.build_params,
        )

    def open(self) -> None:
        self._open = self.load("diskannpy").StaticDiskIndex(
            index_directory=str(self.task.workdir),
            num_threads=max(2, self.task.threads),  # with one, opening never ends
            num_nodes_to_cache=self.task.rows // _ROWS_PER_CACHED_NODE,
            cache_mechanism=1,  # nodes of sampled searches
        )

    def points(self) -> list[Params]:
        grid = product(_LIST_SWEEP, _BEAM_SWEEP)
        return [{"complexity": n, "beam_width": b} for n, b in grid if n >= self.task.k]

    def select(self, params: Params) -> None:
        self._params = {name: int(value) for name, value in params.items()}

    def _ready(self, queries: Vectors) -> Vectors:
        return normalised(queries) if self.task.metric == "cosine" else queries

    def rows(self, queries: Vectors) -> list[Any]:
        ready = self._ready(queries)
        return [ready[i : i + 1] for i in range(len(ready))]

    def _search(self, rows: Any) -> Any:
        k, threads = self.task.k, self.task.threads
        return self._open.batch_search(rows, k, num_threads=threads, **self._params)

    def call(self) -> Callable[[Any], Any]:
        return self._search

    def ids(self, answer: Any) -> Any:
        return answer.identifiers[0]

    def batch(self, queries: Vectors) -> Any:
        return self._search(self._ready(queries)).identifiers
