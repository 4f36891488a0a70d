"""All rows of a collection, or that one tenant owns, block by block from one committed state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import InvalidArgumentError
from vecstore.layout import TENANT_NONE
from vecstore.verbs import ReadVerbs, source_of


@dataclass(frozen=True)
class Block:
    """Some rows, in the order of insertion.

    Attributes
    ----------
    ids : list of int or str
    vectors : float32 (n, dim)
    metadata : list of (dict or None)
    documents : list of (str or None)
    tenant : str or None
        Whose they are; None in a collection without tenants.
    """

    ids: list[Any]
    vectors: NDArray[np.float32]
    metadata: list[dict[str, Any] | None]
    documents: list[str | None]
    tenant: str | None


def dump(view: ReadVerbs, block_rows: int = 1_024) -> Iterator[Block]:
    """Give all rows of a collection without tenants, or those that a tenant owns.

    The state stays readable while the caller takes its time; until it is done, space that writers
    free is not given back.

    Parameters
    ----------
    view : Collection or Tenant
    block_rows : int

    Raises
    ------
    InvalidArgumentError
        Several tenants are read as one.
    """
    reader, scope = source_of(view)
    if scope is not None and len(scope) != 1:
        raise InvalidArgumentError("Rows of several tenants cannot be exported as one; name one.")
    with reader.opened(scope) as (snapshot, transaction, views):
        for one in views:
            rows = one.row_numbers()
            if one.number != TENANT_NONE and one.record.granted:
                owned = [snapshot.owner_of(row) == one.number for row in rows.tolist()]
                rows = rows[np.array(owned, np.bool_)]
            rows = rows[np.argsort(snapshot.places_of(rows), kind="stable")]
            for start in range(0, len(rows), block_rows):
                part = np.ascontiguousarray(rows[start : start + block_rows])
                numbers = part.tolist()
                yield Block(
                    snapshot.ids_of(part).tolist(),
                    reader.vectors_of(snapshot, part),
                    snapshot.metadata(transaction, numbers),
                    snapshot.documents(transaction, numbers),
                    None if scope is None else scope[0],
                )
