"""A collection: rows of one kind, for one or for many tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vecstore.choice import Request
from vecstore.clustering import Progress, silent
from vecstore.config import INT_ID_MAX, Metric
from vecstore.core import Core
from vecstore.errors import InvalidArgumentError, InvalidVectorError, TenantRequiredError
from vecstore.extent_set import Identity
from vecstore.maintenance import Maintenance
from vecstore.results import Tuning
from vecstore.scopes import Scope
from vecstore.session import Session
from vecstore.tenancy import Tenancy, parse_column, parse_tenant
from vecstore.tenant import Tenant, TenantUnion
from vecstore.verbs import Verbs


class Collection(Verbs):
    """Rows of one kind: vectors of one dimension under one metric, with ids and metadata.

    Got from `Store.collection`. All methods may be called from many threads; each call sees one
    committed state.  In a collection with tenants the row verbs are those of `tenant(name)`.
    """

    def __init__(self, session: Session, identity: Identity, maintenance: Maintenance) -> None:
        self._core = Core(session, identity, maintenance)

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._core.name

    @property
    def metric(self) -> str:
        """Distance: "l2", "cosine" or "ip"."""
        return Metric(self._core.identity.record.metric).label

    @property
    def options(self) -> dict[str, Any]:
        """What it was created with: dim, metric, tenants, codec, raw."""
        record = self._core.identity.record
        return {
            "dim": record.dim,
            "metric": self.metric,
            "tenants": record.tenants,
            "codec": record.codec,
            "raw": record.raw,
        }

    def __repr__(self) -> str:
        """Show name and shape."""
        return f"Collection({self.name!r}, dim={self.dim}, metric={self.metric!r})"

    def _scope(self) -> Scope:
        if self._core.identity.record.tenants:
            raise TenantRequiredError(
                f"Collection {self.name!r} has tenants; call the verb of one of them, as in "
                f"tenant('name')."
            )
        return None

    def _tenancy(self, n: int, tenants: Any) -> Tenancy | None:
        if not self._core.identity.record.tenants:
            if tenants is not None:
                raise InvalidArgumentError(
                    f"Collection {self.name!r} has no tenants; leave the argument out."
                )
            return None
        if tenants is None:
            self._scope()
        return parse_column(tenants, n)

    def load(
        self,
        vectors: Any,
        ids: Any = None,
        metadata: Any = None,
        documents: Any = None,
        progress: Progress | None = None,
        *,
        tenants: Any = None,
    ) -> None:
        """Upsert many rows, reading a memory map in blocks and reporting progress.

        Parameters
        ----------
        vectors : array-like (n, dim)
            A `numpy.memmap` is never copied as a whole.
        ids : sequence, optional
            0 to n - 1 by default.
        metadata, documents : sequence, optional
        progress : callable, optional
            Called as `progress(stage, done, total)`.
        tenants : sequence, optional
            In a collection with tenants: for each row the name of its tenant, or a sequence of
            names, of the owner and of those to whom the row is granted.
        """
        if ids is None:
            if not hasattr(vectors, "__len__"):
                raise InvalidVectorError(
                    f"vectors is {vectors!r}; pass an array (n, {self._core.dim})."
                )
            ids = np.arange(len(vectors), dtype=np.int64)
        self._put(ids, vectors, metadata, documents, False, progress or silent, tenants)

    def stats(self) -> dict[str, Any]:
        """Describe size, shape and calibration; see the README for the fields."""
        stats = self._core.reader.stats()
        return {**stats, "maintenance": self._core.writer.behind or "up to date"}

    # --- tenants ---------------------------------------------------------------------------

    def tenant(self, *names: str) -> Any:
        """View one tenant, or several together for reading.

        A tenant exists from its first write on; one that does not is empty.

        Parameters
        ----------
        *names : str
            Non-empty, of at most 256 UTF-8 bytes.

        Returns
        -------
        Tenant, or TenantUnion for several names

        Raises
        ------
        TenantRequiredError
            No name, an empty one or None; or the collection has no tenants.
        """
        self._need_tenants()
        if not names:
            raise TenantRequiredError("tenant() names none; name one, a non-empty str.")
        if len(names) == 1:
            return Tenant(self._core, parse_tenant(names[0]))
        return TenantUnion(self._core, tuple(dict.fromkeys(map(parse_tenant, names))))

    def tenants(self) -> list[str]:
        """Names of all tenants, sorted."""
        self._need_tenants()
        return self._core.reader.tenants()

    def drop_tenant(self, name: str) -> None:
        """Delete a tenant with all its rows, for everybody; its name may be used anew at once."""
        self._need_tenants()
        parsed = parse_tenant(name)
        self._core.refuse_read_only()
        with self._core.session:
            self._core.writer.drop_tenant(parsed)

    def set_quota(
        self,
        name: str,
        rows: int | None = None,
        k: int | None = None,
        query_bytes: int | None = None,
        where: int | None = None,
    ) -> None:
        """Limit what a tenant may store and ask for; None lifts a limit.

        Parameters
        ----------
        rows : int, optional
            Rows of its own.
        k : int, optional
            Hits that one query may ask for.
        query_bytes : int, optional
            Bytes of codes and vectors that one query may read, by its plan.
        where : int, optional
            Terms of one filter.
        """
        self._need_tenants()
        parsed = parse_tenant(name)
        quota = {"rows": rows, "k": k, "query_bytes": query_bytes, "where": where}
        for limit, value in quota.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InvalidArgumentError(f"{limit} is {value!r}; use an int, or None.")
            if value is not None and not 0 <= value <= INT_ID_MAX:
                shown = value if abs(value) <= 2**64 else f"an int of {value.bit_length()} bits"
                raise InvalidArgumentError(f"{limit} is {shown}; use 0 to 2**63 - 1, or None.")
        self._core.refuse_read_only()
        with self._core.session:
            self._core.writer.set_quota(parsed, quota)

    def _need_tenants(self) -> None:
        if not self._core.identity.record.tenants:
            raise TenantRequiredError(
                f"Collection {self.name!r} has no tenants; call its own verbs, or create one "
                f"with tenants=True."
            )

    # --- maintenance -----------------------------------------------------------------------

    def compact(self, progress: Progress | None = None) -> None:
        """Bring fresh rows into the index, merge all extents, and give back what is dead.

        Writers wait meanwhile, readers do not.  Files that were replaced go as soon as no reader,
        in any process, has a snapshot that is older.

        Parameters
        ----------
        progress : callable, optional
            Called as `progress(stage, done, total)`.
        """
        self._core.refuse_read_only()
        with self._core.session:
            self._core.writer.compact(progress or silent)

    # --- tuning ----------------------------------------------------------------------------

    def tune(
        self,
        queries: Any = None,
        recall: float = 0.95,
        k: int = 10,
        ram_bytes: int | None = None,
        disk_bytes: int | None = None,
        *,
        codecs: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Tuning:
        """Choose codec and effort by measuring them on this collection.

        Every candidate codec encodes all rows; recall is measured against exact search over the
        vectors as they are stored, for a grid of probes and rerank depths. The quickest candidate
        that reaches the recall within the budgets is kept, and queries that name no recall aim at
        this one from now on. Writers wait meanwhile, readers do not.

        Parameters
        ----------
        queries : array-like (n, dim), optional
            Queries as users ask them. Without, rows of the collection serve, each without itself
            among its neighbours; the result says so.
        recall : float in (0, 1)
        k : int
        ram_bytes : int, optional
            What tables and directory of the collection may take.
        disk_bytes : int, optional
            What its extents may take.
        codecs : sequence of str, optional
            Candidates; `vecstore.choice.CODECS` by default.
        progress : callable, optional
            Called as `progress(stage, done, total)`.

        Raises
        ------
        TargetNotMetError
            Nothing was changed.
        """
        self._core.refuse_read_only()
        if self._core.identity.record.tenants:
            raise InvalidArgumentError(
                f"Collection {self.name!r} has tenants, each measured when it is divided; choose "
                f"its codec when you create it."
            )
        request = Request.parse(
            self._core.identity, queries, recall, k, ram_bytes, disk_bytes, codecs
        )
        with self._core.session:
            return self._core.tuner.tune(request, progress or silent)

    def tuning(self) -> Tuning | None:
        """Return the last decision of `tune` with its evidence; None when there was none."""
        return self._core.reader.tuning()

    def _close(self) -> None:
        """Let go of maps and threads; the store calls it once no call runs."""
        self._core.close()
