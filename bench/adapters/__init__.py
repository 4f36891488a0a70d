"""The adapters by name. Importing this package loads none of the libraries behind them."""

from __future__ import annotations

import importlib
import importlib.util

from bench.adapters.base import Adapter, Params, Task

__all__ = ["ADAPTERS", "Adapter", "Params", "Task", "adapter_class", "missing_modules"]

ADAPTERS: dict[str, str] = {
    "vecstore": "bench.adapters.vecstore_:Vecstore",
    "vecstore-float32": "bench.adapters.vecstore_:VecstoreFloat32",
    "hnswlib": "bench.adapters.hnswlib_:Hnswlib",
    "faiss-flat": "bench.adapters.faiss_:FaissFlat",
    "faiss-hnsw": "bench.adapters.faiss_:FaissHnsw",
    "faiss-ivfpq": "bench.adapters.faiss_:FaissIvfPq",
    "faiss-ivf-mmap": "bench.adapters.faiss_:FaissIvfMapped",
    "faiss-ivfsq-mmap": "bench.adapters.faiss_:FaissIvfSqMapped",
    "faiss-hnswsq": "bench.adapters.faiss_:FaissHnswSq",
    "faiss-ivfrabitq": "bench.adapters.faiss_:FaissIvfRabitq",
    "usearch": "bench.adapters.usearch_:Usearch",
    "lancedb-ivfpq": "bench.adapters.lancedb_:LanceIvfPq",
    "lancedb-hnswsq": "bench.adapters.lancedb_:LanceHnswSq",
    "lancedb-ivfrq": "bench.adapters.lancedb_:LanceIvfRq",
    "zvec-hnsw": "bench.adapters.zvec_:ZvecHnsw",
    "zvec-ivf": "bench.adapters.zvec_:ZvecIvfRabitq",
    "zvec-diskann": "bench.adapters.zvec_:ZvecDiskAnn",
    "zvec-hnswint8": "bench.adapters.zvec_:ZvecHnswInt8",
    "zvec-hnswrabitq": "bench.adapters.zvec_:ZvecHnswRabitq",
    "diskann": "bench.adapters.diskann_:DiskAnn",
}


def adapter_class(name: str) -> type[Adapter]:
    """The adapter class registered under ``name``.

    Raises
    ------
    ValueError
        No adapter has that name.
    """
    if name not in ADAPTERS:
        raise ValueError(f"No adapter is called {name!r}; there are: {', '.join(ADAPTERS)}.")
    module, _, cls = ADAPTERS[name].partition(":")
    found: type[Adapter] = getattr(importlib.import_module(module), cls)
    return found


def missing_modules(name: str) -> list[str]:
    """Top-level modules that the adapter needs and this Python cannot find."""
    tops = dict.fromkeys(module.partition(".")[0] for module in adapter_class(name).modules)
    return [top for top in tops if importlib.util.find_spec(top) is None]
