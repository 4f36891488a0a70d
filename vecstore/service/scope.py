"""What a caller is handed: objects that can do what its key allows, and nothing else.

A handler never asks who calls.  A key that may only read is handed a store that was opened for
reading, so the engine refuses its writes.  A key bound to a tenant is handed objects whose only
rows are those of `Collection.tenant(name)`: there is no path from them to another tenant, a
collection without tenants, or the store.  What they do not offer they refuse, whatever its name.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vecstore.errors import (
    AccessDeniedError,
    CollectionNotFoundError,
    StoreClosedError,
    TenantRequiredError,
)
from vecstore.wire.verbs import Role, Verb, Where

if TYPE_CHECKING:
    from vecstore.collection import Collection
    from vecstore.service.keys import Key
    from vecstore.store import Store
    from vecstore.verbs import ReadVerbs

_TENANT_VERBS: Final = frozenset(
    {
        "add", "count", "delete", "dim", "explain", "get", "query", "revoke", "search", "upsert",
        "vectors",
    }
)  # fmt: skip


@dataclass
class Stores:
    """The store of this process, opened for reading and, where it writes, for writing."""

    reading: Store | None = None
    writing: Store | None = None
    _known: dict[str, Any] = field(default_factory=dict)

    def handed(self, key: Key, verb: Verb) -> Any:
        """Return what a key may use for a verb.

        Raises
        ------
        AccessDeniedError
            The verb needs another role.
        """
        if key.rank < verb.role:
            raise AccessDeniedError(
                f"This key has the role {key.role!r}; {verb.name} needs {verb.role.name.lower()!r}."
            )
        writes = verb.where is Where.WRITER and key.rank >= Role.WRITE
        store = self.writing if writes else self.reading
        if store is None:
            raise StoreClosedError("The store is not open.")
        return store if key.tenant is None else BoundStore(store, key.tenant)

    def docs(self, store: Any, name: str) -> Any:
        """Get a collection without a look into the catalogue, when it was got before.

        A collection that was dropped says so when it is used; then call `forget`.

        Parameters
        ----------
        store : Store or BoundStore
            What was handed out.
        """
        bound = isinstance(store, BoundStore)
        own = store._store if bound else store
        known = self._known.get(name) if own is self.reading else None
        if known is None:
            found = store.collection(name)
            if own is not self.reading:
                return found
            known = self._known[name] = found._docs if bound else found
        return store.bind(known) if bound else known

    def forget(self, name: str) -> bool:
        """Look a collection up anew next time; whether that may change anything."""
        return self._known.pop(name, None) is not None


class _Bound:
    """Refuses whatever it does not have."""

    _tenant: str

    def __getattr__(self, name: str) -> Any:
        raise AccessDeniedError(
            "This key is bound to one tenant; the call needs a key that is bound to none."
        )


class BoundStore(_Bound):
    """A store as a key of one tenant sees it: its collections with tenants."""

    def __init__(self, store: Store, tenant: str) -> None:
        self._store = store
        self._tenant = tenant

    def collections(self) -> list[str]:
        """Names of the collections with tenants."""
        found = []
        for name in self._store.collections():
            with suppress(CollectionNotFoundError):  # it was dropped meanwhile
                if self._store.collection(name).options["tenants"]:
                    found.append(name)
        return found

    def collection(self, name: str, **expected: Any) -> BoundCollection:
        """Get a collection with tenants; it is never created."""
        if name not in self._store.collections():
            raise _missing(name)
        bound = self.bind(self._store.collection(name))
        self._store.collection(name, **expected)  # raises when it differs
        return bound

    def bind(self, docs: Collection) -> BoundCollection:
        """View a collection; one without tenants does not exist for the key."""
        if not docs.options["tenants"]:
            raise _missing(docs.name)
        return BoundCollection(docs, self._tenant)


def _missing(name: str) -> CollectionNotFoundError:
    return CollectionNotFoundError(f"There is no collection {name!r} for this key.")


class BoundCollection(_Bound):
    """A collection as a key of one tenant sees it."""

    def __init__(self, docs: Collection, tenant: str) -> None:
        self._docs = docs
        self._tenant = tenant
        self.name = docs.name
        self.dim = docs.dim
        self.options = docs.options

    def tenant(self, *names: str) -> Any:
        """View the tenant; any other name is refused, whether there is such a tenant or not."""
        if not names or None in names or "" in names:
            return self._docs.tenant(*names)
        self._hold(*names)
        return BoundTenant(self._docs.tenant(self._tenant))

    def tenants(self) -> list[str]:
        """Name the tenant, if it has or had rows."""
        return [name for name in self._docs.tenants() if name == self._tenant]

    def stats(self) -> dict[str, Any]:
        """Count the rows that the tenant sees; other figures are about everybody's."""
        return {"rows": len(self._docs.tenant(self._tenant))}

    def drop_tenant(self, name: str) -> None:
        """Delete the tenant."""
        self._hold(name)
        self._docs.drop_tenant(self._tenant)

    def _hold(self, *names: str) -> None:
        for name in names:
            if name != self._tenant:
                raise AccessDeniedError(
                    f"This key does not reach a tenant {name!r}, if there is one."
                )


class BoundTenant(_Bound):
    """A tenant without `grant`.

    What one grants shows among the rows of another, who did not ask for it, and a grant that is
    refused would tell which ids they have.
    """

    def __init__(self, view: Any) -> None:
        self._view = view

    def __getattribute__(self, name: str) -> Any:
        """Pass on the row verbs."""
        if name in _TENANT_VERBS:
            return getattr(object.__getattribute__(self, "_view"), name)
        return object.__getattribute__(self, name)


def rows_of(docs: Any, tenants: tuple[str, ...] | None) -> Any:
    """Return what the row verbs of a call are those of: a collection, a tenant, or several."""
    if tenants is not None:
        return docs.tenant(*tenants)
    if docs.options["tenants"]:
        refuse_nameless(docs.name)
    return docs


def view_of(rows: Any) -> ReadVerbs:
    """View of the engine that the row verbs go to, for what reads through a view as a whole."""
    view: ReadVerbs = rows._view if isinstance(rows, BoundTenant) else rows
    return view


def refuse_nameless(name: str) -> NoReturn:
    """Raise for a row verb without a tenant."""
    raise TenantRequiredError(f"Collection {name!r} has tenants; name one, as in ?tenant=name.")
