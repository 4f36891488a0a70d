"""Names of tenants, as users pass them: one for a call, or one or more for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import TENANT_NAME_BYTES_MAX
from vecstore.errors import DuplicateIdError, InvalidArgumentError, TenantRequiredError
from vecstore.ids import Ids

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Tenancy:
    """Whose the rows of a call are.

    Attributes
    ----------
    names : list of str
        Each tenant once.
    owners : int64 (n,)
        Place in `names` of each row's owner.
    granted_rows, granted_to : int64 (grants,)
        Places of rows, and of those to whom they are granted, in `names`.
    """

    names: list[str]
    owners: I64
    granted_rows: I64
    granted_to: I64

    @classmethod
    def single(cls, name: str, n: int) -> Tenancy:
        """All rows belong to one tenant."""
        none = np.zeros(0, np.int64)
        return cls([name], np.zeros(n, np.int64), none, none)


def parse_tenant(name: Any) -> str:
    """Check the name of a tenant."""
    if name is None:
        raise TenantRequiredError("tenant is None; name one, a non-empty str.")
    if not isinstance(name, str):
        raise InvalidArgumentError(f"tenant is {name!r}; a tenant's name is a non-empty str.")
    plain: str = str.__str__(name)  # what a subclass, such as an enum's member, holds
    if not plain:
        raise TenantRequiredError("tenant is ''; name one, a non-empty str.")
    try:
        size = len(plain.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            f"tenant is {name!r}, which is not valid Unicode; names are stored as UTF-8."
        ) from None
    if size > TENANT_NAME_BYTES_MAX:
        raise InvalidArgumentError(
            f"tenant is {name[:40]!r}... of {size} bytes; a name has at most "
            f"{TENANT_NAME_BYTES_MAX} in UTF-8."
        )
    return plain


def parse_column(tenants: Any, n: int) -> Tenancy:
    """Check a column of tenants: for each row a name, or a sequence of them, the owner first."""
    axes = getattr(tenants, "ndim", 1)
    if (
        isinstance(tenants, (str, bytes, Mapping, Set))  # neither of which has an order of rows
        or not hasattr(tenants, "__len__")
        or not (axes == 1 or (axes == 2 and isinstance(tenants, np.ndarray)))
    ):
        raise InvalidArgumentError(
            f"tenants is {tenants!r}; pass a sequence with a name, or a list of names, for each "
            f"row."
        )
    column = list(tenants)
    if len(column) != n:
        raise InvalidArgumentError(f"{len(column)} tenants for {n} rows; lengths must agree.")
    places: dict[str, int] = {}
    owners = np.empty(n, np.int64)
    rows: list[int] = []
    to: list[int] = []
    for row, value in enumerate(column):
        names: Sequence[Any] = [value] if value is None or isinstance(value, str) else value
        if not isinstance(names, (list, tuple, np.ndarray)):
            raise InvalidArgumentError(
                f"tenants[{row}] is {value!r}; pass a name, or a list of names, the owner first."
            )
        if not len(names):
            raise TenantRequiredError(f"tenants[{row}] is empty; a row has an owner.")
        seen = []
        for name in names:
            place = places.get(name) if type(name) is str else None
            if place is None:
                place = places.setdefault(parse_tenant(name), len(places))
            seen.append(place)
        owners[row] = seen[0]
        others = set(seen[1:]) - {seen[0]}
        rows += [row] * len(others)
        to += others
    return Tenancy(list(places), owners, np.array(rows, np.int64), np.array(to, np.int64))


def check_unique_by_tenant(ids: Ids, tenancy: Tenancy) -> None:
    """Refuse an id that one tenant would see twice after the call."""
    tenants = np.concatenate([tenancy.owners, tenancy.granted_to])
    places = np.concatenate([np.arange(len(ids)), tenancy.granted_rows])
    if isinstance(ids.values, np.ndarray):
        numbers = ids.values
    else:
        known: dict[str, int] = {}
        numbers = np.array([known.setdefault(value, len(known)) for value in ids.values], np.int64)
    order = np.lexsort((numbers[places], tenants))
    same = (np.diff(tenants[order]) == 0) & (np.diff(numbers[places[order]]) == 0)
    if same.any():
        at = order[int(same.argmax())]
        raise DuplicateIdError(
            f"Id {ids.one(int(places[at]))!r} occurs twice in one call for tenant "
            f"{tenancy.names[int(tenants[at])]!r}; pass each id once. Nothing was written."
        )
