"""vecstore: an embedded, disk-backed vector store that opens like a file.

>>> import vecstore
>>> with vecstore.open("shop.vecstore") as store:
...     docs = store.collection("docs", dim=384, metric="cosine")
...     docs.upsert(["a", "b"], vectors)
...     hits = docs.query(vector, k=10)
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    raise ImportError("vecstore runs on Linux and macOS; on Windows, use it inside WSL.")

from vecstore.collection import Collection
from vecstore.errors import (
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
    ReadOnlyError,
    StoreClosedError,
    StoreNotFoundError,
    TenantRequiredError,
    UnknownIdError,
    VecstoreError,
    WriterLockedError,
)
from vecstore.results import Hit, Result, Violation
from vecstore.store import Store
from vecstore.store import open_store as open
from vecstore.warmup import warmup

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "CollectionMismatchError",
    "CollectionNotFoundError",
    "CorruptionError",
    "DiskFullError",
    "DuplicateIdError",
    "FilterError",
    "ForkedStoreError",
    "FormatVersionError",
    "Hit",
    "InvalidArgumentError",
    "InvalidVectorError",
    "NotAStoreError",
    "QuotaExceededError",
    "ReadOnlyError",
    "Result",
    "Store",
    "StoreClosedError",
    "StoreNotFoundError",
    "TenantRequiredError",
    "UnknownIdError",
    "VecstoreError",
    "Violation",
    "WriterLockedError",
    "open",
    "warmup",
]
