"""hnswlib: the in-memory graph that every ratio is taken against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from bench.adapters.base import Adapter, Params

if TYPE_CHECKING:
    from bench.adapters.base import Vectors

EF_SWEEP = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896, 1280)


class Hnswlib(Adapter):
    """M 16, efConstruction 200; the sweep is over ef.

    hnswlib has no files of its own format beyond ``save_index``/``load_index``: opening is
    loading all of it.
    """

    modules = ("numpy", "hnswlib")
    packages = ("hnswlib",)
    build_params: ClassVar[dict[str, Any]] = {"M": 16, "ef_construction": 200}

    def _index(self) -> Any:
        return self.load("hnswlib").Index(space=self.task.metric, dim=self.task.dim)

    @property
    def _path(self) -> str:
        return str(self.task.workdir / "index.hnsw")

    def build(self, base: Vectors) -> None:
        index = self._index()
        index.init_index(max_elements=len(base), **self.build_params)
        index.set_num_threads(self.task.threads)
        index.add_items(base)
        index.save_index(self._path)

    def open(self) -> None:
        self._open = self._index()
        self._open.load_index(self._path, max_elements=self.task.rows)
        self._open.set_num_threads(self.task.threads)

    def points(self) -> list[Params]:
        return [{"ef": ef} for ef in EF_SWEEP if ef >= self.task.k]

    def select(self, params: Params) -> None:
        self._open.set_ef(int(params["ef"]))

    def call(self) -> Callable[[Any], Any]:
        index, k = self._open, self.task.k
        return lambda row: index.knn_query(row, k=k)

    def ids(self, answer: Any) -> Any:
        return answer[0][0]

    def batch(self, queries: Vectors) -> Any:
        return self._open.knn_query(queries, k=self.task.k)[0]
