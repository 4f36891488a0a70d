"""vecstore: an embedded, disk-backed vector store that opens like a file.

>>> import vecstore
>>> with vecstore.open("shop.vecstore") as store:
...     docs = store.collection("docs", dim=384, metric="cosine")
...     docs.upsert(["a", "b"], vectors)
...     hits = docs.query(vector, k=10)
"""

from __future__ import annotations

import importlib
import sys

if sys.platform == "win32":
    raise ImportError("vecstore runs on Linux and macOS; on Windows, use it inside WSL.")

from typing import TYPE_CHECKING, Any

from vecstore.errors import (
    AccessDeniedError,
    CollectionMismatchError,
    CollectionNotFoundError,
    CorruptionError,
    DiskFullError,
    DuplicateIdError,
    FilterError,
    ForkedStoreError,
    FormatVersionError,
    InvalidArgumentError,
    InvalidVectorError,
    NotAStoreError,
    QuotaExceededError,
    RateLimitedError,
    ReadOnlyError,
    RequestTooLargeError,
    ServiceTimeoutError,
    StoreClosedError,
    StoreNotFoundError,
    TargetNotMetError,
    TenantRequiredError,
    UnavailableError,
    UnknownIdError,
    VecstoreError,
    WriterLockedError,
)

if TYPE_CHECKING:
    from vecstore.client import RemoteCollection, RemoteStore, connect
    from vecstore.collection import Collection
    from vecstore.results import Candidate, Explanation, Hit, Result, Tuning, Violation
    from vecstore.store import Store
    from vecstore.store import open_store as open
    from vecstore.table import EmbeddingTable
    from vecstore.tenant import Tenant, TenantUnion
    from vecstore.warm import warmup

__version__ = "0.1.0"

# Imported when first used: these bring numba, faiss and LMDB, which `--help` does not need.
_LAZY = {
    "Collection": ("vecstore.collection", "Collection"),
    "Candidate": ("vecstore.results", "Candidate"),
    "EmbeddingTable": ("vecstore.table", "EmbeddingTable"),
    "RemoteCollection": ("vecstore.client", "RemoteCollection"),
    "RemoteStore": ("vecstore.client", "RemoteStore"),
    "connect": ("vecstore.client", "connect"),
    "Explanation": ("vecstore.results", "Explanation"),
    "Hit": ("vecstore.results", "Hit"),
    "Result": ("vecstore.results", "Result"),
    "Tuning": ("vecstore.results", "Tuning"),
    "Violation": ("vecstore.results", "Violation"),
    "Store": ("vecstore.store", "Store"),
    "Tenant": ("vecstore.tenant", "Tenant"),
    "TenantUnion": ("vecstore.tenant", "TenantUnion"),
    "open": ("vecstore.store", "open_store"),
    "warmup": ("vecstore.warm", "warmup"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


__all__ = [
    "AccessDeniedError",
    "Candidate",
    "Collection",
    "CollectionMismatchError",
    "CollectionNotFoundError",
    "CorruptionError",
    "DiskFullError",
    "DuplicateIdError",
    "EmbeddingTable",
    "Explanation",
    "FilterError",
    "ForkedStoreError",
    "FormatVersionError",
    "Hit",
    "InvalidArgumentError",
    "InvalidVectorError",
    "NotAStoreError",
    "QuotaExceededError",
    "RateLimitedError",
    "ReadOnlyError",
    "RemoteCollection",
    "RemoteStore",
    "RequestTooLargeError",
    "Result",
    "ServiceTimeoutError",
    "Store",
    "StoreClosedError",
    "StoreNotFoundError",
    "TargetNotMetError",
    "Tenant",
    "TenantRequiredError",
    "TenantUnion",
    "Tuning",
    "UnavailableError",
    "UnknownIdError",
    "VecstoreError",
    "Violation",
    "WriterLockedError",
    "connect",
    "open",
    "warmup",
]
