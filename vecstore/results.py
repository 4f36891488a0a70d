"""What reads return."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Hit(msgspec.Struct, frozen=True):
    """One row found.

    Attributes
    ----------
    id : int or str
    distance : float or None
        In the collection's metric, smaller is closer; None from `get`.
    metadata, document, vector
        As stored; None where absent or not asked for. A vector is float32 (dim,).
    tenant : str or None
        Owner of the row; None in a collection without tenants.
    """

    id: int | str
    distance: float | None = None
    metadata: dict[str, Any] | None = None
    document: str | None = None
    vector: NDArray[np.float32] | None = None
    tenant: str | None = None


class Result(msgspec.Struct, frozen=True):
    """Answers to a batch of queries.

    Attributes
    ----------
    ids : int64 (n, k), or object for str ids
        Places without an answer hold -1, or None.
    distances : float32 (n, k)
        Places without an answer hold +inf.
    """

    ids: NDArray[Any]
    distances: NDArray[np.float32]


class Violation(msgspec.Struct, frozen=True):
    """An invariant that does not hold.

    Attributes
    ----------
    invariant : str
        Its name.
    where : str
        Collection, and what else tells the place.
    detail : str
        What was found.
    """

    invariant: str
    where: str
    detail: str
