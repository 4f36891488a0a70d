"""usearch: an HNSW graph that can be queried from a mapped file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from bench.adapters.base import Adapter, Params, blocks
from bench.adapters.hnswlib_ import EF_SWEEP

if TYPE_CHECKING:
    from bench.adapters.base import Vectors

_METRICS = {"l2": "l2sq", "cosine": "cos", "ip": "ip"}


class Usearch(Adapter):
    """hnswlib's parameters, float32, opened as a view of the file."""

    modules = ("numpy", "usearch.index")
    packages = ("usearch",)
    build_params: ClassVar[dict[str, Any]] = {"connectivity": 16, "expansion_add": 200}

    @property
    def _path(self) -> str:
        return str(self.task.workdir / "index.usearch")

    def build(self, base: Vectors) -> None:
        import numpy as np

        index = self.load("usearch.index").Index(
            ndim=self.task.dim, metric=_METRICS[self.task.metric], dtype="f32", **self.build_params
        )
        for start, rows in blocks(base, normalise=False):
            keys = np.arange(start, start + len(rows), dtype=np.uint64)
            index.add(keys, rows, threads=self.task.threads)
        index.save(self._path)

    def open(self) -> None:
        self._open = self.load("usearch.index").Index.restore(self._path, view=True)

    def points(self) -> list[Params]:
        return [{"expansion_search": ef} for ef in EF_SWEEP if ef >= self.task.k]

    def select(self, params: Params) -> None:
        self._open.expansion_search = int(params["expansion_search"])

    def call(self) -> Callable[[Any], Any]:
        search, k = self._open.search, self.task.k
        return lambda row: search(row, k)

    def ids(self, answer: Any) -> Any:
        return answer.keys

    def batch(self, queries: Vectors) -> Any:
        return self._open.search(queries, self.task.k, threads=self.task.threads).keys
