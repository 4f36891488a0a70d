"""faiss: exact search, HNSW, IVF of PQ or RaBitQ codes with refinement, IVF read through a map."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from bench.adapters.base import Adapter, Params, blocks, normalised
from bench.adapters.hnswlib_ import EF_SWEEP

if TYPE_CHECKING:
    from bench.adapters.base import Vectors

NPROBE_SWEEP = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
TRAIN_ROWS_PER_LIST = 64


def list_count(rows: int) -> int:
    """Inverted lists for ``rows``: the power of two nearest to 4·√rows."""
    return 1 << max(0, round(math.log2(4 * rows**0.5)))


class FaissAdapter(Adapter):
    """What all faiss indexes share; cosine is the inner product of normalised rows."""

    modules = ("numpy", "faiss")
    packages = ("faiss-cpu",)
    mapped: ClassVar[bool] = False

    @property
    def _path(self) -> str:
        return str(self.task.workdir / "index.faiss")

    @abstractmethod
    def factory(self) -> str:
        """The index_factory description."""

    def prepare(self, index: Any) -> None:
        """Set build parameters on the empty index."""

    def build(self, base: Vectors) -> None:
        faiss = self.load("faiss")
        faiss.omp_set_num_threads(self.task.threads)
        cosine = self.task.metric == "cosine"
        kind = faiss.METRIC_L2 if self.task.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(self.task.dim, self.factory(), kind)
        self.prepare(index)
        if not index.is_trained:
            index.train(self._sample(base, cosine))
        for _, rows in blocks(base, cosine):
            index.add(rows)
        faiss.write_index(index, self._path)

    def _sample(self, base: Vectors, normalise: bool) -> Vectors:
        import numpy as np

        wanted = max(20_000, TRAIN_ROWS_PER_LIST * list_count(len(base)))
        chosen = np.random.default_rng(0).permutation(len(base))[:wanted]
        rows = np.ascontiguousarray(base[np.sort(chosen)])
        return normalised(rows) if normalise else rows

    def open(self) -> None:
        faiss = self.load("faiss")
        faiss.omp_set_num_threads(self.task.threads)
        self._open = faiss.read_index(self._path, faiss.IO_FLAG_MMAP if self.mapped else 0)

    def rows(self, queries: Vectors) -> list[Any]:
        ready = normalised(queries) if self.task.metric == "cosine" else queries
        return [ready[i : i + 1] for i in range(len(ready))]

    def call(self) -> Callable[[Any], Any]:
        search, k = self._open.search, self.task.k
        return lambda row: search(row, k)

    def ids(self, answer: Any) -> Any:
        return answer[1][0]

    def batch(self, queries: Vectors) -> Any:
        ready = normalised(queries) if self.task.metric == "cosine" else queries
        return self._open.search(ready, self.task.k)[1]


class FaissFlat(FaissAdapter):
    """Exact search by one pass over all rows."""

    def factory(self) -> str:
        return "Flat"

    def points(self) -> list[Params]:
        return [{}]

    def select(self, params: Params) -> None:
        return None


class FaissHnsw(FaissAdapter):
    """HNSW with hnswlib's parameters."""

    build_params: ClassVar[dict[str, Any]] = {"M": 16, "efConstruction": 200}

    def factory(self) -> str:
        return f"HNSW{self.build_params['M']},Flat"

    def prepare(self, index: Any) -> None:
        index.hnsw.efConstruction = self.build_params["efConstruction"]

    def points(self) -> list[Params]:
        return [{"efSearch": ef} for ef in EF_SWEEP if ef >= self.task.k]

    def select(self, params: Params) -> None:
        self._open.hnsw.efSearch = int(params["efSearch"])


class FaissHnswSq(FaissHnsw):
    """HNSW over rows of 8 bits a dimension, then refinement from float32 rows in memory."""

    build_params: ClassVar[dict[str, Any]] = {"M": 16, "efConstruction": 200, "refine": "RFlat"}

    def factory(self) -> str:
        return f"HNSW{self.build_params['M']},SQ8,{self.build_params['refine']}"

    def prepare(self, index: Any) -> None:
        super().prepare(self.load("faiss").downcast_index(index.base_index))

    def points(self) -> list[Params]:
        return [{**point, "k_factor": f} for point, f in product(super().points(), (1, 2))]

    def select(self, params: Params) -> None:
        hnsw = self.load("faiss").downcast_index(self._open.base_index).hnsw
        hnsw.efSearch = int(params["efSearch"])
        self._open.k_factor = float(params["k_factor"])


class FaissIvfRefined(FaissAdapter):
    """IVF whose lists are found by an HNSW graph; codes are refined from float32 rows in memory."""

    k_factors: ClassVar[tuple[int, ...]]

    def points(self) -> list[Params]:
        grid = product(NPROBE_SWEEP[1:], self.k_factors)
        usable = list_count(self.task.rows)
        return [{"nprobe": n, "k_factor": f} for n, f in grid if n <= usable]

    def select(self, params: Params) -> None:
        faiss = self.load("faiss")
        faiss.extract_index_ivf(self._open).nprobe = int(params["nprobe"])
        self._open.k_factor = float(params["k_factor"])


class FaissIvfPq(FaissIvfRefined):
    """IVF with 4-bit PQ scanned from registers, then refinement from float32 rows in memory."""

    build_params: ClassVar[dict[str, Any]] = {"dims_per_code": 2, "lists": "HNSW32"}
    k_factors = (3, 8, 20, 50)

    def factory(self) -> str:
        codes = max(1, self.task.dim // self.build_params["dims_per_code"])
        lists = f"IVF{list_count(self.task.rows)}_{self.build_params['lists']}"
        return f"{lists},PQ{codes}x4fs,RFlat"


class FaissIvfRabitq(FaissIvfRefined):
    """IVF with RaBitQ codes of 4 bits, the first scanned from registers, then refinement."""

    build_params: ClassVar[dict[str, Any]] = {"bits": 4, "lists": "HNSW32", "rotation": "RR"}
    k_factors = (1, 2, 4, 10)

    def factory(self) -> str:
        lists = f"IVF{list_count(self.task.rows)}_{self.build_params['lists']}"
        return f"RR{self.task.dim},{lists},RaBitQfs{self.build_params['bits']},RFlat"


class FaissIvfMapped(FaissAdapter):
    """IVF of float32 rows whose lists stay in the file: faiss's form for disk.

    The sweep includes faiss's threads that read ahead, which it starts for every query: cold they
    help, warm they cost milliseconds.
    """

    mapped = True

    def factory(self) -> str:
        return f"IVF{list_count(self.task.rows)},Flat"

    def points(self) -> list[Params]:
        grid = product(NPROBE_SWEEP, (0, 32))
        usable = list_count(self.task.rows)
        return [{"nprobe": n, "prefetch_threads": t} for n, t in grid if n <= usable]

    def select(self, params: Params) -> None:
        lists = self.load("faiss").downcast_InvertedLists(self._open.invlists)
        lists.prefetch_nthread = int(params["prefetch_threads"])
        self._open.nprobe = int(params["nprobe"])


class FaissIvfSqMapped(FaissIvfMapped):
    """IVF of rows with 8 bits a dimension whose lists stay in the file, without refinement."""

    def factory(self) -> str:
        return f"IVF{list_count(self.task.rows)},SQ8"
