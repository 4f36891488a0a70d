"""Rows to be clustered and encoded, stored ones and new ones in one numbering.

Whatever reads them copies the few it asks for, so a memory map larger than RAM can be indexed.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import Metric
from vecstore.extent_set import Identity
from vecstore.kernels.encode import gather_rows

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]


def normalised(x: F32, metric: int) -> F32:
    """Rows as the index sees them: of length one under cosine."""
    if metric != Metric.COSINE:
        return x
    norms = np.sqrt(np.einsum("ij,ij->i", x, x))
    unit: F32 = x / np.maximum(norms, np.float32(1e-30))[:, None]
    return unit


class Rows:
    """Rows to be indexed: some stored already, then some new, in one numbering from 0.

    Parameters
    ----------
    identity : Identity
        The collection's dimensions, metric and raw form.
    addresses : int64 (stored,)
        Where the stored rows are.
    fresh : array-like (new, dim), optional
        Anything that can be sliced and indexed by rows, a memory map included.
    """

    def __init__(self, identity: Identity, addresses: I64, fresh: Any) -> None:
        self.dim = identity.record.dim
        self.metric = identity.record.metric
        self.form = identity.form
        self.stored = len(addresses)
        self.fresh_count = 0 if fresh is None else len(fresh)
        self.n = self.stored + self.fresh_count
        self.stored_addresses = addresses
        self._fresh = fresh

    def with_stored(self, addresses: I64) -> Rows:
        """The same new rows behind other stored ones."""
        other = copy(self)
        other.stored = len(addresses)
        other.stored_addresses = addresses
        other.n = other.stored + other.fresh_count
        return other

    def take_raw(self, indices: I64 | U32) -> F32:
        """Copy rows: new ones as they were given, stored ones as they come back."""
        out = np.empty((len(indices), self.dim), np.float32)
        stored = indices < self.stored
        if stored.all():
            gather_rows(self.form.number, self.stored_addresses[indices], out)
            return out
        if stored.any():
            own = np.empty((int(stored.sum()), self.dim), np.float32)
            gather_rows(self.form.number, self.stored_addresses[indices[stored]], own)
            out[stored] = own
        out[~stored] = self._fresh[indices[~stored] - self.stored]
        return out

    def take(self, indices: I64 | U32) -> F32:
        """Copy rows as the index sees them."""
        return normalised(self.take_raw(indices), self.metric)


class Part:
    """Some of the rows, numbered from 0: what one tenant's clustering sees.

    Parameters
    ----------
    rows : Rows
    places : uint32 (n,)
    """

    def __init__(self, rows: Rows, places: U32) -> None:
        self.dim = rows.dim
        self.n = len(places)
        self._rows = rows
        self._places = places

    def take(self, indices: I64 | U32) -> F32:
        """Copy rows as the index sees them."""
        return self._rows.take(self._places[indices])
