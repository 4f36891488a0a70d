"""One tenant of a collection, and several read as one."""

from __future__ import annotations

from typing import Any

from vecstore.core import Core
from vecstore.errors import InvalidArgumentError, ReadOnlyError
from vecstore.ids import check_id_kind, parse_ids
from vecstore.scopes import Scope
from vecstore.tenancy import parse_tenant
from vecstore.verbs import ReadVerbs, Verbs


class Tenant(Verbs):
    """The rows of one tenant, and those that others granted to it.

    Got from `Collection.tenant`.  What other tenants store, delete or ask has no influence on
    what a call here returns.
    """

    def __init__(self, core: Core, name: str) -> None:
        self._core = core
        self.name = name

    def __repr__(self) -> str:
        """Show the names."""
        return f"Tenant({self.name!r} of {self._core.name!r})"

    def _scope(self) -> Scope:
        return (self.name,)

    def grant(self, ids: Any, to: str) -> int:
        """Let another tenant see rows of this one, under their ids, until they are revoked.

        The grantee reads what the owner writes to these ids from then on, and cannot change it.

        Parameters
        ----------
        ids : str, int, or a sequence of either
            Unknown ids are skipped.
        to : str
            Name of a tenant, which this creates if need be.

        Returns
        -------
        int
            Rows that the other did not see before.

        Raises
        ------
        DuplicateIdError
            The other has a row of its own, or of a third tenant, with one of the ids.
        ReadOnlyError
            One of the rows is itself granted.
        """
        return self._change_grants(ids, to, "to")

    def revoke(self, ids: Any, from_: str) -> int:
        """End grants: from the return on, no call of the other finds the rows.

        Returns
        -------
        int
            Grants that ended.
        """
        return self._change_grants(ids, from_, "from_")

    def _change_grants(self, ids: Any, other: str, argument: str) -> int:
        core = self._core
        name = parse_tenant(other)
        if name == self.name:
            raise InvalidArgumentError(f"{argument} is {name!r}, the owner; name another tenant.")
        core.refuse_read_only()
        parsed = parse_ids(ids)
        with core.session:
            check_id_kind(parsed, core.reader.newest().state.int_ids, core.name)
            if not len(parsed):
                return 0
            change = core.writer.grant if argument == "to" else core.writer.revoke
            return change(parsed, self.name, name)


class TenantUnion(ReadVerbs):
    """Several tenants read as one; a row that several see is there once."""

    def __init__(self, core: Core, names: tuple[str, ...]) -> None:
        self._core = core
        self.names = names

    def __repr__(self) -> str:
        """Show the names."""
        return f"TenantUnion({', '.join(map(repr, self.names))} of {self._core.name!r})"

    def _scope(self) -> Scope:
        return self.names

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a union can only be read."""
        raise ReadOnlyError(
            f"Tenants {', '.join(map(repr, self.names))} are read together; write to one of them."
        )

    upsert = add = delete = grant = revoke = _refuse
