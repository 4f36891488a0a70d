"""vecstore through its public interface: one store, one collection, queries by recall target."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.adapters.base import Adapter, Params

if TYPE_CHECKING:
    from bench.adapters.base import Vectors

COLLECTION = "bench"


class Vecstore(Adapter):
    """The codec that the engine chooses; the sweep is over ``recall=``.

    What is timed is ``docs.query(vector, k=k, recall=r)`` with its default ``include``, hits as
    objects: the call a user writes.
    """

    modules = ("numpy", "vecstore")
    lazy_modules = ("vecstore.store",)
    packages = ("vecstore", "numpy", "numba", "llvmlite", "lmdb", "faiss-cpu")
    build_params: ClassVar[dict[str, Any]] = {"codec": "auto"}

    @classmethod
    def code(cls) -> str:
        """Hash of the library's sources, which change while its version stays."""
        spec = importlib.util.find_spec("vecstore")
        assert spec is not None
        assert spec.origin is not None
        digest, folder = hashlib.sha256(), Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}".encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:16]

    def _store(self, mode: str) -> Any:
        return self.load("vecstore").open(self.task.workdir / "store", mode=mode)

    def build(self, base: Vectors) -> None:
        with self._store("w") as store:
            docs = store.collection(
                COLLECTION, dim=self.task.dim, metric=self.task.metric, **self.build_params
            )
            docs.load(base)

    def open(self) -> None:
        self._opened = self._store("r")
        self._docs = self._opened.collection(COLLECTION)

    def points(self) -> list[Params]:
        return [{"recall": recall} for recall in self.task.recalls]

    def select(self, params: Params) -> None:
        self._recall = float(params["recall"])

    def call(self) -> Callable[[Any], Any]:
        query, k, recall = self._docs.query, self.task.k, self._recall
        return lambda row: query(row, k=k, recall=recall)

    def ids(self, answer: Any) -> Any:
        return [hit.id for hit in answer]

    def batch(self, queries: Vectors) -> Any:
        return self._docs.search(queries, k=self.task.k, recall=self._recall).ids

    def close(self) -> None:
        self._opened.close()

    def info(self) -> dict[str, Any]:
        stats: dict[str, Any] = json.loads(json.dumps(self._docs.stats(), default=str))
        return stats


class VecstoreFloat32(Vecstore):
    """The exact form: postings of float32 rows."""

    build_params: ClassVar[dict[str, Any]] = {"codec": "float32"}
