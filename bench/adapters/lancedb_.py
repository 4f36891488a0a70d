"""LanceDB: columnar tables on disk with IVF indexes and refinement from the stored rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from bench.adapters.base import Adapter, Params, blocks

if TYPE_CHECKING:
    from bench.adapters.base import Vectors

_DISTANCES = {"l2": "l2", "cosine": "cosine", "ip": "dot"}
_TABLE = "bench"
_NPROBES = (4, 8, 16, 32, 64, 128)


class LanceAdapter(Adapter):
    """A table with columns id and vector; answers as Arrow, the cheapest form it has."""

    modules = ("numpy", "lancedb", "pyarrow")
    packages = ("lancedb", "pyarrow")

    @classmethod
    def environment(cls, threads: int) -> dict[str, str]:
        names = ("LANCE_CPU_THREADS", "TOKIO_WORKER_THREADS")
        return dict.fromkeys(names, str(threads)) | {"LANCE_IO_THREADS": str(max(threads, 2))}

    @abstractmethod
    def config(self) -> Any:
        """The index that is asked for."""

    @property
    def _distance(self) -> str:
        return _DISTANCES[self.task.metric]

    def build(self, base: Vectors) -> None:
        import numpy as np

        pa = self.load("pyarrow")
        kind = pa.list_(pa.float32(), self.task.dim)
        schema = pa.schema([("id", pa.int64()), ("vector", kind)])

        def batches() -> Any:
            for start, rows in blocks(base, normalise=False):
                ids = pa.array(np.arange(start, start + len(rows), dtype=np.int64))
                vectors = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), self.task.dim)
                yield pa.record_batch([ids, vectors], schema=schema)

        database = self.load("lancedb").connect(str(self.task.workdir))
        table = database.create_table(_TABLE, data=batches(), schema=schema)
        table.create_index("vector", config=self.config())

    def open(self) -> None:
        self._table = self.load("lancedb").connect(str(self.task.workdir)).open_table(_TABLE)

    def points(self) -> list[Params]:
        return [{"nprobes": n, "refine_factor": f} for n, f in product(_NPROBES, (2, 5, 20, 50))]

    def select(self, params: Params) -> None:
        self._params = params

    def _search(self, row: Any) -> Any:
        query = self._table.search(row).distance_type(self._distance).select(["id"])
        query = query.limit(self.task.k).nprobes(self._params["nprobes"])
        if "ef" in self._params:
            query = query.ef(self._params["ef"])
        return query.refine_factor(self._params["refine_factor"]).to_arrow()

    def call(self) -> Callable[[Any], Any]:
        return self._search

    def ids(self, answer: Any) -> Any:
        return answer["id"].to_numpy()

    def batch(self, queries: Vectors) -> Any:
        return [self.ids(self._search(row)) for row in queries]


class LanceIvfPq(LanceAdapter):
    """IVF_PQ with LanceDB's own sizes, refined."""

    build_params: ClassVar[dict[str, Any]] = {"index": "IVF_PQ"}

    def config(self) -> Any:
        return self.load("lancedb.index").IvfPq(distance_type=self._distance)


class LanceIvfRq(LanceAdapter):
    """IVF_RQ (RaBitQ) with LanceDB's own sizes, refined."""

    build_params: ClassVar[dict[str, Any]] = {"index": "IVF_RQ"}

    def config(self) -> Any:
        return self.load("lancedb.index").IvfRq(distance_type=self._distance)


class LanceHnswSq(LanceAdapter):
    """IVF_HNSW_SQ with LanceDB's own sizes; the sweep is over probes and ef."""

    build_params: ClassVar[dict[str, Any]] = {"index": "IVF_HNSW_SQ"}

    def config(self) -> Any:
        return self.load("lancedb.index").HnswSq(distance_type=self._distance)

    def points(self) -> list[Params]:
        grid = product((1, 2, 4, 8), (20, 40, 80, 160, 320))
        return [{"nprobes": n, "ef": ef, "refine_factor": 2} for n, ef in grid]
