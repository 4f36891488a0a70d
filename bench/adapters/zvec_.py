"""zvec: an embedded vector database with HNSW, RaBitQ and DiskANN indexes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from bench.adapters.base import Adapter, Params, blocks
from bench.adapters.faiss_ import list_count
from bench.adapters.hnswlib_ import EF_SWEEP

if TYPE_CHECKING:
    from bench.adapters.base import Vectors

_METRICS = {"l2": "L2", "cosine": "COSINE", "ip": "IP"}
_FIELD = "vector"
_INSERT_ROWS = 1000


def refined(params: Params) -> dict[str, Any]:
    """Arguments by which so many times k candidates are compared exactly; none without a factor."""
    if not params["scale_factor"]:
        return {}
    return {"is_using_refiner": True, "scale_factor": float(params["scale_factor"])}


class ZvecAdapter(Adapter):
    """One collection with one vector field; the row number is the document's id."""

    modules = ("numpy", "zvec")
    packages = ("zvec",)

    @abstractmethod
    def index(self, zvec: Any, metric: Any) -> Any:
        """Parameters of the index."""

    @abstractmethod
    def query_params(self, zvec: Any, params: Params) -> Any:
        """The library's own form of a parameter point."""

    @property
    def _path(self) -> str:
        return str(self.task.workdir / "collection")

    def _start(self) -> Any:
        zvec = self.load("zvec")
        zvec.init(
            log_level=zvec.LogLevel.ERROR,
            query_threads=self.task.threads,
            optimize_threads=self.task.threads,
        )
        return zvec

    def build(self, base: Vectors) -> None:
        zvec = self._start()
        metric = getattr(zvec.MetricType, _METRICS[self.task.metric])
        field = zvec.VectorSchema(
            _FIELD,
            zvec.DataType.VECTOR_FP32,
            self.task.dim,
            index_param=self.index(zvec, metric),
        )
        collection = zvec.create_and_open(self._path, zvec.CollectionSchema("bench", vectors=field))
        for first, rows in blocks(base, normalise=False):
            for start in range(0, len(rows), _INSERT_ROWS):
                part = rows[start : start + _INSERT_ROWS]
                collection.insert(
                    [
                        zvec.Doc(id=str(first + start + i), vectors={_FIELD: row.tolist()})
                        for i, row in enumerate(part)
                    ]
                )
        collection.optimize(zvec.OptimizeOption(concurrency=self.task.threads))
        collection.flush()
        collection.close()

    def open(self) -> None:
        zvec = self._start()
        self._open = zvec.open(self._path, zvec.CollectionOption(read_only=True, enable_mmap=True))

    def select(self, params: Params) -> None:
        self._params = self.query_params(self.load("zvec"), params)

    def call(self) -> Callable[[Any], Any]:
        query, make = self._open.query, self.load("zvec").Query
        params, k = self._params, self.task.k
        return lambda row: query(make(field_name=_FIELD, vector=row, param=params), topk=k)

    def ids(self, answer: Any) -> Any:
        return [int(document.id) for document in answer]

    def batch(self, queries: Vectors) -> Any:
        call = self.call()
        return [self.ids(call(row)) for row in queries]

    def close(self) -> None:
        self._open.close()


class ZvecHnsw(ZvecAdapter):
    """HNSW with hnswlib's parameters."""

    build_params: ClassVar[dict[str, Any]] = {"m": 16, "ef_construction": 200}

    def index(self, zvec: Any, metric: Any) -> Any:
        return zvec.HnswIndexParam(metric_type=metric, **self.build_params)

    def points(self) -> list[Params]:
        return [{"ef": ef} for ef in EF_SWEEP if ef >= self.task.k]

    def query_params(self, zvec: Any, params: Params) -> Any:
        return zvec.HnswQueryParam(ef=int(params["ef"]))


class ZvecHnswInt8(ZvecHnsw):
    """HNSW over rows of 8 bits a dimension in contiguous memory, with and without refinement."""

    def index(self, zvec: Any, metric: Any) -> Any:
        return zvec.HnswIndexParam(
            metric_type=metric,
            quantize_type=zvec.QuantizeType.INT8,
            use_contiguous_memory=True,
            **self.build_params,
        )

    def points(self) -> list[Params]:
        return [{**point, "scale_factor": f} for point, f in product(super().points(), (0, 2))]

    def query_params(self, zvec: Any, params: Params) -> Any:
        return zvec.HnswQueryParam(ef=int(params["ef"]), **refined(params))


class ZvecHnswRabitq(ZvecHnswInt8):
    """HNSW over 7-bit RaBitQ codes, with and without refinement."""

    build_params: ClassVar[dict[str, Any]] = {"m": 16, "ef_construction": 200, "total_bits": 7}

    def index(self, zvec: Any, metric: Any) -> Any:
        return zvec.HnswRabitqIndexParam(metric_type=metric, **self.build_params)

    def query_params(self, zvec: Any, params: Params) -> Any:
        return zvec.HnswRabitqQueryParam(ef=int(params["ef"]), **refined(params))


class ZvecIvfRabitq(ZvecAdapter):
    """IVF of 7-bit RaBitQ codes; the sweep is over probes, with and without refinement."""

    build_params: ClassVar[dict[str, Any]] = {"total_bits": 7}

    def index(self, zvec: Any, metric: Any) -> Any:
        lists = list_count(self.task.rows)
        return zvec.IvfRabitqIndexParam(metric_type=metric, nlist=lists, **self.build_params)

    def points(self) -> list[Params]:
        probes = (4, 8, 16, 32, 64, 128, 256)
        grid = product((n for n in probes if n <= list_count(self.task.rows)), (0, 2, 5))
        return [{"nprobe": n, "scale_factor": f} for n, f in grid]

    def query_params(self, zvec: Any, params: Params) -> Any:
        return zvec.IvfRabitqQueryParam(nprobe=int(params["nprobe"]), **refined(params))


class ZvecDiskAnn(ZvecAdapter):
    """DiskANN, the form for disk; the sweep is over the search list."""

    build_params: ClassVar[dict[str, Any]] = {"max_degree": 64, "list_size": 100}

    def index(self, zvec: Any, metric: Any) -> Any:
        return zvec.DiskAnnIndexParam(metric_type=metric, **self.build_params)

    def points(self) -> list[Params]:
        return [{"list_size": n} for n in (10, 20, 40, 80, 160, 320) if n >= self.task.k]

    def query_params(self, zvec: Any, params: Params) -> Any:
        return zvec.DiskAnnQueryParam(list_size=int(params["list_size"]))
