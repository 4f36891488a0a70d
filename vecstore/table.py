"""A collection as a table of embeddings: vectors by id, in the shape that the ids have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import InvalidVectorError
from vecstore.ids import Ids, parse_ids
from vecstore.inputs import as_array, check_values

if TYPE_CHECKING:
    from vecstore.reader import Reader
    from vecstore.scopes import Scope

F32 = NDArray[np.float32]


class EmbeddingTable:
    """Read-only vectors of a collection for models that look rows up; got from `Collection.table`.

    ``table[ids]`` takes one id, a (nested) list of ids, or an array of any shape, a tensor of
    another library included, and gives float32 of that shape and one dimension more. An id that
    occurs often is looked up once. Each lookup sees one committed state, so the table follows
    writes; it may be used from many threads.

    Raises
    ------
    UnknownIdError
        No live row has one of the ids, and there is no `missing` row to stand for it.
    """

    dtype = np.dtype(np.float32)
    __iter__ = None  # ids are no positions

    def __init__(
        self, reader: Reader, scope: Scope, name: str, dim: int, missing: Any = None
    ) -> None:
        self._reader = reader
        self._scope = scope
        self._name = name
        self.dim = dim
        self._missing = None if missing is None else _one_row(missing, dim, name)

    def __len__(self) -> int:
        """Count live rows."""
        return self._reader.count(self._scope, None)

    @property
    def shape(self) -> tuple[int, int]:
        """Live rows and dimensions."""
        return len(self), self.dim

    def __repr__(self) -> str:
        """Show name and shape."""
        return f"EmbeddingTable({self._name!r}, shape={self.shape})"

    def __getitem__(self, ids: Any) -> F32:
        """Look vectors up by id: float32 (*shape of ids, dim)."""
        array = np.asarray(ids, None if hasattr(ids, "__array__") else object)
        flat = array.ravel()
        parsed = parse_ids(flat if array.dtype.kind in "iu" else flat.tolist())
        distinct, places = _distinct(parsed)
        vectors = self._reader.fetch_vectors(self._scope, distinct, self._missing)
        if places is not None:
            vectors = vectors[places]
        return vectors.reshape(*array.shape, self.dim)


def _one_row(missing: Any, dim: int, name: str) -> F32:
    row = as_array(missing, dim, name, True)
    if len(row) != 1:
        raise InvalidVectorError(f"missing has {len(row)} rows; pass one vector ({dim},).")
    check_values(row, 0, "missing")
    return np.array(row[0], np.float32)


def _distinct(ids: Ids) -> tuple[Ids, Any]:
    """Each id once, and where to find each of the call's among them; None when none repeats."""
    if isinstance(ids.values, np.ndarray):
        numbers, inverse = np.unique(ids.values, return_inverse=True)
        once, places = Ids(numbers, False, True), inverse
    else:
        known = {value: place for place, value in enumerate(dict.fromkeys(ids.values))}
        once = Ids(list(known), False, False)
        places = np.array([known[value] for value in ids.values], np.int64)
    return (ids, None) if len(once) == len(ids) else (once, places)
