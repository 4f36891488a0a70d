"""Names of tenants as files hold them: one for each row, or a list of them, the owner first.

Names are strings. Numbers are refused rather than turned into text, since 7 and "7" would become
one tenant.
"""

from __future__ import annotations

from typing import Any

from vecstore.errors import InvalidArgumentError
from vecstore.loaders.common import RecordSpool

_SHOWN = 60


class TenantCheck:
    """Checks one row's tenants after the other, each name once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, value: Any) -> str | list[str]:
        """Return the name or the names; equal names are one string.

        Raises
        ------
        TypeError
            What is wrong and the remedy, for the caller to add file and row, and the full stop.
        """
        if not isinstance(value, list):
            return self._name(value)
        if not value:
            raise TypeError("the list of tenants is empty; name the owner or leave out the row")
        names = []
        for place, one in enumerate(value):
            try:
                names.append(self._name(one))
            except TypeError as error:
                raise TypeError(f"place {place} of the list of tenants: {error}") from error
        return names

    def _name(self, value: Any) -> str:
        if value is None:
            raise TypeError("no tenant; fill it in or leave out the row")
        if not isinstance(value, str):
            shown = f"{value!r}"
            if len(shown) > _SHOWN:
                shown = f"{shown[:_SHOWN]}…"
            raise TypeError(
                f"{shown} is no tenant; tenants are strings, or lists of strings with the owner "
                "first"
            )
        if not value:
            raise TypeError("the tenant is empty; fill it in or leave out the row")
        known = self._known.get(value)
        if known is None:
            # Here, not above: it brings the engine's byte layout along, which most files need not.
            from vecstore.tenancy import parse_tenant

            try:
                known = self._known.setdefault(value, parse_tenant(value))
            except InvalidArgumentError as error:
                raise TypeError(f"{error}".rstrip(".")) from error
        return known


class TenantSpool:
    """The tenants of row after row, checked and kept in a temporary file."""

    def __init__(self, name: str) -> None:
        self._check = TenantCheck()
        self._spool = RecordSpool(name)

    def append(self, value: Any) -> None:
        """Add the tenants of one row; raises as `TenantCheck` does."""
        self._spool.append(self._check(value))

    def finish(self) -> RecordSpool | None:
        """Map what was written; None if there were no rows."""
        return self._spool.finish()
