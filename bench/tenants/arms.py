"""What is compared: vecstore, indexes shared by all tenants with a filter, an index per tenant.

An arm lives in a process of its own.  Peers hold the ids of each tenant in the form that answers
quickest; what can be prepared before a query (filters, selectors) is prepared untimed, and its
memory is theirs.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from bench.tenants.model import LARGEST, Workload, blocks, tenant_name

Params = dict[str, Any]
COLLECTION = "bench"
RECALLS = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 1.0)
EFS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 896, 1280)
NPROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Place:
    """Where an arm works.

    Attributes
    ----------
    data : str
        Folder of the workload.
    work : str
        Folder of the arm's own files.
    """

    data: str
    work: str
    k: int
    threads: int = 1


class Arm(ABC):
    """One way to serve tenants; see the module's text."""

    modules: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    build_params: ClassVar[dict[str, Any]] = {}
    durable: ClassVar[str] = "nothing until all of it is saved"

    def __init__(self, place: Place) -> None:
        self.place = place
        self.folder = Path(place.work)

    @cached_property
    def workload(self) -> Workload:
        """The workload, mapped."""
        return Workload.open(Path(self.place.data))

    def load(self, module: str) -> Any:
        """Import a library."""
        return importlib.import_module(module)

    def prepare(self) -> None:  # noqa: B027  (most need nothing)
        """Make what queries need and no index should be charged for."""

    @abstractmethod
    def build(self) -> None:
        """Build and save."""

    @abstractmethod
    def open(self) -> None:
        """Open what was built."""

    @abstractmethod
    def points(self) -> list[Params]:
        """Settings of the sweep, the cheapest first."""

    @abstractmethod
    def select(self, params: Params, scopes: list[int]) -> None:
        """Set up one point, and whatever the queries of some tenants need."""

    @abstractmethod
    def call(self) -> Callable[[int, Any], Any]:
        """What is timed: a function of tenant and query."""

    @abstractmethod
    def ids(self, answer: Any) -> Any:
        """Rows of an answer, nearest first."""

    def serves(self, tenant: int) -> bool:
        """Whether the arm has an index for a tenant."""
        return True

    def runtime(self, build: bool) -> bool:
        """Build an almost empty store, or use it in every way; False if that costs nothing."""
        return False

    def info(self) -> dict[str, Any]:
        """What the library tells about itself, as JSON values."""
        return {}

    def row(self, vector: Any) -> Any:
        """A query as the library takes it, prepared untimed."""
        return vector

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """Close what was opened."""


class Vecstore(Arm):
    """vecstore through its public interface; the sweep is over ``recall=``.

    Timed is ``docs.tenant(name).query(vector, k=k, recall=r)``, hits as objects.
    """

    modules = ("numpy", "vecstore", "vecstore.store")
    packages = ("vecstore", "numpy", "numba", "lmdb", "faiss-cpu")
    durable = "every call, when it returns"

    def build(self) -> None:
        made = self.workload
        with self.load("vecstore").open(self.folder / "store") as store:
            docs = store.collection(
                COLLECTION, dim=made.base.shape[1], metric=made.metric, tenants=True
            )
            docs.load(made.base, tenants=made.column())

    def open(self, mode: str = "r") -> None:
        self.store = self.load("vecstore").open(self.folder / "store", mode=mode)
        self.docs = self.store.collection(COLLECTION)

    def prepare(self) -> None:
        self.names = self.workload.tenant_names()

    def points(self) -> list[Params]:
        return [{"recall": recall} for recall in RECALLS]

    def select(self, params: Params, scopes: list[int]) -> None:
        self._recall = float(params["recall"])

    def call(self) -> Callable[[int, Any], Any]:
        tenant, names, k, recall = self.docs.tenant, self.names, self.place.k, self._recall
        return lambda scope, row: tenant(names[scope]).query(row, k=k, recall=recall)

    def ids(self, answer: Any) -> Any:
        return [hit.id for hit in answer]

    def info(self) -> dict[str, Any]:
        import json

        stats: dict[str, Any] = json.loads(json.dumps(self.docs.stats(), default=str))
        return stats

    def close(self) -> None:
        self.store.close()

    def runtime(self, build: bool) -> bool:
        import numpy as np

        dim, vecstore = int(self.workload.base.shape[1]), self.load("vecstore")
        x = np.random.default_rng(0).standard_normal((6_000, dim)).astype(np.float32)
        if build:
            with vecstore.open(self.folder / "store") as store:
                docs = store.collection("r", dim, self.workload.metric, tenants=True)
                docs.load(x, tenants=["a"] * 5_900 + ["b"] * 100)
            return True
        self.store = vecstore.open(self.folder / "store", mode="r")
        self.docs = self.store.collection("r")
        for name in "ab":
            for recall in RECALLS:
                self.docs.tenant(name).query(x[0], k=self.place.k, recall=recall)
        return True


class SharedHnsw(Arm):
    """(a) One hnswlib index (M 16, efConstruction 200), filtered while it is searched.

    The filter is the `__contains__` of a roaring bitmap of the tenant's rows: the quickest
    function that Python can hand to hnswlib in little memory.
    """

    modules = ("numpy", "hnswlib", "pyroaring")
    packages = ("hnswlib", "pyroaring", "numpy")
    build_params: ClassVar[dict[str, Any]] = {"M": 16, "ef_construction": 200}

    def _index(self) -> Any:
        made = self.workload
        return self.load("hnswlib").Index(space=made.metric, dim=int(made.base.shape[1]))

    @property
    def path(self) -> str:
        """File of the index."""
        return str(self.folder / "index.hnsw")

    def build(self) -> None:
        import numpy as np

        base = self.workload.base
        index = self._index()
        index.init_index(max_elements=len(base), **self.build_params)
        index.set_num_threads(self.place.threads)
        for part in blocks(len(base), BLOCK_ROWS):
            index.add_items(base[part], np.arange(part.start, part.stop))
        index.save_index(self.path)
        np.save(self.folder / "first.npy", self.workload.first)
        np.save(self.folder / "rows.npy", self.workload.rows)

    def open(self, spare: int = 0) -> None:
        made = self.workload
        self.index = self._index()
        self.index.load_index(self.path, max_elements=len(made.base) + spare)
        self.index.set_num_threads(1)
        bitmap = self.load("pyroaring").BitMap
        self.members = [bitmap(made.rows_of(t)) for t in range(made.tenants)]
        self._wanted = [min(self.place.k, len(own)) for own in self.members]

    def points(self) -> list[Params]:
        return [{"ef": ef} for ef in EFS if ef >= self.place.k]

    def select(self, params: Params, scopes: list[int]) -> None:
        self.index.set_ef(int(params["ef"]))

    def call(self) -> Callable[[int, Any], Any]:
        query, members, wanted = self.index.knn_query, self.members, self._wanted

        def ask(scope: int, row: Any) -> Any:
            try:
                return query(
                    row, k=wanted[scope], num_threads=1, filter=members[scope].__contains__
                )
            except RuntimeError:  # fewer than k found: hnswlib gives no answer at all
                return None

        return ask

    def ids(self, answer: Any) -> Any:
        return [] if answer is None else answer[0][0]


class SharedIvf(Arm):
    """(b) One faiss IVF of float32 vectors, lists of about sqrt(n) / 4 rows, a bitmap per tenant.

    A tenant's selector is an `IDSelectorBitmap`, made beforehand for each tenant that is asked.
    """

    modules = ("numpy", "faiss")
    packages = ("faiss-cpu", "numpy")
    build_params: ClassVar[dict[str, Any]] = {"nlist": "4 sqrt(n)", "train": "64 rows a list"}

    @property
    def path(self) -> str:
        """File of the index."""
        return str(self.folder / "index.faiss")

    def unit(self, x: Any) -> Any:
        """Rows as the index takes them."""
        import numpy as np

        x = np.ascontiguousarray(x, np.float32)
        if self.workload.metric == "cosine":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x

    def build(self) -> None:
        import numpy as np

        faiss = self.load("faiss")
        faiss.omp_set_num_threads(self.place.threads)
        base = self.workload.base
        n, dim = base.shape
        nlist = max(1, round(4 * n**0.5))
        kind = faiss.METRIC_L2 if self.workload.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self._quantizer = faiss.IndexFlat(dim, kind)
        index = faiss.IndexIVFFlat(self._quantizer, dim, nlist, kind)
        picks = np.random.default_rng(0).choice(n, min(n, 64 * nlist), replace=False)
        index.train(self.unit(base[np.sort(picks)]))
        for part in blocks(n, BLOCK_ROWS):
            index.add_with_ids(self.unit(base[part]), np.arange(part.start, part.stop))
        faiss.write_index(index, self.path)
        np.save(self.folder / "first.npy", self.workload.first)
        np.save(self.folder / "rows.npy", self.workload.rows)

    def open(self) -> None:
        faiss = self.load("faiss")
        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(self.path)
        self._selectors: dict[int, Any] = {}
        self._bitmaps: dict[int, Any] = {}

    def points(self) -> list[Params]:
        return [{"nprobe": n} for n in NPROBES if n <= self.index.nlist]

    def bitmap(self, scope: int) -> Any:
        """Bits of a tenant's rows, with room for some more."""
        import numpy as np

        if scope not in self._bitmaps:
            marks = np.zeros(self.index.ntotal + 8_192, np.bool_)
            marks[self.workload.rows_of(scope)] = True
            self._bitmaps[scope] = np.packbits(marks, bitorder="little")
        return self._bitmaps[scope]

    def select(self, params: Params, scopes: list[int]) -> None:
        faiss = self.load("faiss")
        self._nprobe = int(params["nprobe"])
        for scope in scopes:
            if scope not in self._selectors:
                self._selectors[scope] = faiss.IDSelectorBitmap(self.bitmap(scope))
        self._chosen = {
            scope: faiss.SearchParametersIVF(sel=self._selectors[scope], nprobe=self._nprobe)
            for scope in scopes
        }

    def row(self, vector: Any) -> Any:
        return self.unit(vector[None])

    def call(self) -> Callable[[int, Any], Any]:
        search, chosen, k = self.index.search, self._chosen, self.place.k
        return lambda scope, row: search(row, k, params=chosen[scope])

    def ids(self, answer: Any) -> Any:
        return answer[1][0]


class TenantHnsw(Arm):
    """(c) An hnswlib index (M 16, efConstruction 200) for each of the 200 largest tenants."""

    modules = ("numpy", "hnswlib")
    packages = ("hnswlib", "numpy")
    build_params: ClassVar[dict[str, Any]] = {
        "M": 16,
        "ef_construction": 200,
        "tenants": LARGEST,
    }

    @cached_property
    def _largest(self) -> list[int]:
        import numpy as np

        order = np.argsort(-self.workload.sizes, kind="stable")[:LARGEST]
        return [int(t) for t in order]

    def serves(self, tenant: int) -> bool:
        return tenant in self._largest

    def new_index(self) -> Any:
        """An index without rows."""
        made = self.workload
        return self.load("hnswlib").Index(space=made.metric, dim=int(made.base.shape[1]))

    def build(self) -> None:
        made = self.workload
        for tenant in self._largest:
            rows = made.rows_of(tenant)
            index = self.new_index()
            index.init_index(max_elements=len(rows), M=16, ef_construction=200)
            index.set_num_threads(self.place.threads)
            index.add_items(made.base[rows], rows)
            index.save_index(str(self.folder / f"{tenant_name(tenant)}.hnsw"))

    def open(self, spare: int = 0) -> None:
        made = self.workload
        self.indexes: dict[int, Any] = {}
        for tenant in self._largest:
            room = int(made.first[tenant + 1] - made.first[tenant]) + spare
            index = self.new_index()
            path = str(self.folder / f"{tenant_name(tenant)}.hnsw")
            index.load_index(path, max_elements=room)
            index.set_num_threads(1)
            self.indexes[tenant] = index

    def points(self) -> list[Params]:
        return [{"ef": ef} for ef in EFS if ef >= self.place.k]

    def select(self, params: Params, scopes: list[int]) -> None:
        for index in self.indexes.values():
            index.set_ef(int(params["ef"]))
        self._wanted = {
            t: min(self.place.k, index.element_count) for t, index in self.indexes.items()
        }

    def call(self) -> Callable[[int, Any], Any]:
        indexes, wanted = self.indexes, self._wanted
        return lambda scope, row: indexes[scope].knn_query(row, k=wanted[scope], num_threads=1)

    def ids(self, answer: Any) -> Any:
        return answer[0][0]


ARMS: dict[str, type[Arm]] = {
    "vecstore": Vecstore,
    "hnswlib-shared": SharedHnsw,
    "faiss-ivf-shared": SharedIvf,
    "hnswlib-per-tenant": TenantHnsw,
}
