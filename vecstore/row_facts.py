"""What stands in LMDB under rows by number: metadata and documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lmdb

from vecstore import layout
from vecstore.layout import Kind


def read_metadata(
    transaction: lmdb.Transaction, collection: int, rows: Sequence[int]
) -> list[dict[str, Any] | None]:
    """Metadata of rows, aligned; None where there is none."""
    values = _values(transaction, collection, Kind.METADATA, rows)
    return [None if value is None else layout.unpack(value) for value in values]


def read_documents(
    transaction: lmdb.Transaction, collection: int, rows: Sequence[int]
) -> list[str | None]:
    """Documents of rows, aligned; None where there is none."""
    values = _values(transaction, collection, Kind.DOCUMENT, rows)
    return [None if value is None else str(value, "utf8") for value in values]


def _values(
    transaction: lmdb.Transaction, collection: int, kind: Kind, rows: Sequence[int]
) -> list[Any]:
    prefix, pack, get = layout.key(collection, kind), layout.U32.pack, transaction.get
    return [get(prefix + pack(row)) for row in rows]
