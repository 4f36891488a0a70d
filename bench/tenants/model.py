"""Rows, tenants and queries of a benchmark, and their files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
LARGEST = 200
"""Tenants that have an index of their own, where that is compared."""


@dataclass(frozen=True)
class Asked:
    """Queries: a vector each, and for which tenant.

    Attributes
    ----------
    vectors : float32 (q, dim)
    tenants : int64 (q,)
    """

    vectors: F32
    tenants: I64


@dataclass(frozen=True)
class Workload:
    """Rows, tenants and queries.

    Attributes
    ----------
    first : int64 (tenants + 1,)
        Rows of tenant t are rows[first[t]:first[t + 1]], ascending.
    rows : int32 (memberships,)
    owner : int32 (n,)
        The tenant that writes a row; it is granted to the others that see it.
    heat : float64 (tenants,)
        Share of the queries.
    asked : dict
        Sets of queries by name.
    facts : dict
        What the generator was told and what came out, as JSON values.
    """

    name: str
    metric: str
    base: F32
    first: I64
    rows: I32
    owner: I32
    heat: F64
    asked: dict[str, Asked] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def tenants(self) -> int:
        """Number of tenants."""
        return len(self.first) - 1

    @property
    def sizes(self) -> I64:
        """Rows of each tenant."""
        sizes: I64 = np.diff(self.first)
        return sizes

    def rows_of(self, tenant: int) -> I32:
        """Rows that a tenant sees, ascending."""
        return self.rows[self.first[tenant] : self.first[tenant + 1]]

    def tenant_names(self) -> list[str]:
        """Names by number."""
        return [tenant_name(t) for t in range(self.tenants)]

    def column(self) -> list[list[str]]:
        """Names for each row, the owner's first, as `Collection.load` takes them."""
        names = self.tenant_names()
        seen: list[list[str]] = [[names[owner]] for owner in self.owner.tolist()]
        for tenant in range(self.tenants):
            name = names[tenant]
            for row in self.rows_of(tenant).tolist():
                if self.owner[row] != tenant:
                    seen[row].append(name)
        return seen

    def save(self, folder: Path) -> None:
        """Write all of it, for other processes to map."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("base", "first", "rows", "owner", "heat"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        for name, asked in self.asked.items():
            np.save(folder / f"asked-{name}-vectors.npy", asked.vectors)
            np.save(folder / f"asked-{name}-tenants.npy", asked.tenants)
        known = {"name": self.name, "metric": self.metric, "asked": list(self.asked)}
        text = json.dumps({**known, "facts": self.facts})
        (folder / "workload.json").write_text(text, "utf-8")

    @classmethod
    def open(cls, folder: Path) -> Workload:
        """Map what `save` wrote."""
        known = json.loads((folder / "workload.json").read_text("utf-8"))

        def mapped(name: str) -> Any:
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        arrays: Any = [mapped(name) for name in ("base", "first", "rows", "owner", "heat")]
        asked = {
            name: Asked(mapped(f"asked-{name}-vectors"), mapped(f"asked-{name}-tenants"))
            for name in known["asked"]
        }
        base, first, rows, owner, heat = arrays
        name, metric, facts = known["name"], known["metric"], known["facts"]
        return cls(name, metric, base, first, rows, owner, heat, asked, facts)

    def described(self) -> dict[str, Any]:
        """Shape of the workload, as JSON values."""
        sizes = np.sort(self.sizes)[::-1]
        return {
            **self.facts,
            "name": self.name,
            "rows": len(self.base),
            "dim": int(self.base.shape[1]),
            "metric": self.metric,
            "tenants": self.tenants,
            "memberships": len(self.rows),
            "sharing": len(self.rows) / len(self.base),
            "largest": int(sizes[0]),
            "median": int(np.median(sizes)),
            "smallest": int(sizes[-1]),
        }


def tenant_name(tenant: int) -> str:
    """Name of a tenant by its number."""
    return f"tenant-{tenant:06d}"


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices that cover n things."""
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))
