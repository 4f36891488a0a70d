"""The oracle of tenants: dictionaries and loops, no sharing of code with the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.naive import distances


class TakenError(Exception):
    """An id is somebody else's already."""


class ForeignError(Exception):
    """A row is another tenant's."""


@dataclass
class Row:
    """One live row."""

    owner: str
    vector: Any
    metadata: Any
    at: int
    granted: set[str] = field(default_factory=set)


class Tenants:
    """What tenants stored and granted."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.seen: dict[str, dict[Any, Row]] = {}
        self._at = 0

    def upsert(self, name: str, ids: Sequence[Any], vectors: Any, metadata: Any = None) -> None:
        """Put rows of one tenant; those who saw a replaced row see the new one."""
        own = self.seen.setdefault(name, {})
        if any(key in own and own[key].owner != name for key in ids):
            raise ForeignError
        for place, key in enumerate(ids):
            old = own.get(key)
            row = Row(name, vectors[place], None if metadata is None else metadata[place], self._at)
            self._at += 1
            own[key] = row
            for grantee in () if old is None else old.granted:
                row.granted.add(grantee)
                self.seen[grantee][key] = row

    def delete(self, name: str, ids: Sequence[Any]) -> int:
        """Delete rows of one tenant, for everybody."""
        own = self.seen.get(name, {})
        if any(key in own and own[key].owner != name for key in ids):
            raise ForeignError
        count = 0
        for key in ids:
            row = own.pop(key, None)
            if row is not None:
                count += 1
                for grantee in row.granted:
                    del self.seen[grantee][key]
        return count

    def grant(self, name: str, ids: Sequence[Any], to: str) -> int:
        """Let another tenant see rows."""
        own, other = self.seen.get(name, {}), self.seen.get(to, {})
        for key in ids:
            if key in own and own[key].owner != name:
                raise ForeignError
            if key in own and key in other and other[key] is not own[key]:
                raise TakenError
        count = 0
        for key in ids:
            if key in own and to not in own[key].granted:
                own[key].granted.add(to)
                self.seen.setdefault(to, {})[key] = own[key]
                count += 1
        return count

    def revoke(self, name: str, ids: Sequence[Any], to: str) -> int:
        """End grants."""
        own = self.seen.get(name, {})
        count = 0
        for key in ids:
            if key in own and own[key].owner == name and to in own[key].granted:
                own[key].granted.discard(to)
                del self.seen[to][key]
                count += 1
        return count

    def drop(self, name: str) -> None:
        """Delete a tenant and its rows."""
        own = self.seen.get(name, {})
        self.delete(name, [key for key, row in own.items() if row.owner == name])
        for row in own.values():
            row.granted.discard(name)
        self.seen.pop(name, None)

    def rows(self, names: Sequence[str]) -> list[tuple[Any, Row]]:
        """Rows that some tenants see together, each once, by insertion."""
        found: dict[int, tuple[Any, Row]] = {}
        for name in names:
            for key, row in self.seen.get(name, {}).items():
                found.setdefault(id(row), (key, row))
        return sorted(found.values(), key=lambda pair: pair[1].at)

    def query(self, names: Sequence[str], vector: Any, k: int) -> list[tuple[Any, str, float]]:
        """Ids, owners and distances of the nearest rows."""
        rows = self.rows(names)
        if not rows:
            return []
        far = distances(self.metric, vector, [row.vector for _, row in rows])
        order = np.argsort(far, kind="stable")[:k]
        return [(rows[i][0], rows[i][1].owner, float(far[i])) for i in order]
