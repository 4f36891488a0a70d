"""A collection behind a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from vecstore.client.rows import RemoteRows, RemoteTenant, RemoteTenantUnion
from vecstore.client.transport import Transport
from vecstore.config import INT_ID_MAX, Metric
from vecstore.errors import InvalidArgumentError, InvalidVectorError, TenantRequiredError
from vecstore.ids import check_unique, parse_ids
from vecstore.inputs import as_array, check_values, parse_documents, parse_k, parse_metadata
from vecstore.results import Tuning
from vecstore.tenancy import check_unique_by_tenant, parse_column, parse_tenant
from vecstore.wire.bodies import CollectionInfo

Progress = Callable[[str, int, int], None]
_CALL_BYTES: Final = 8 << 20
_CALL_ROWS_MAX: Final = 16_384


class RemoteCollection(RemoteRows):
    """Rows of one kind, kept by a service; the methods of `vecstore.Collection`.

    Got from `RemoteStore.collection`.
    """

    def __init__(self, transport: Transport, info: CollectionInfo) -> None:
        self._transport = transport
        self._info = info

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._info.name

    @property
    def metric(self) -> str:
        """Distance: "l2", "cosine" or "ip"."""
        return self._info.metric

    @property
    def options(self) -> dict[str, Any]:
        """What it was created with: dim, metric, tenants, codec, raw."""
        return {name: getattr(self._info, name) for name in self._info.__struct_fields__[1:]}

    def __repr__(self) -> str:
        """Show name and shape."""
        return f"RemoteCollection({self.name!r}, dim={self.dim}, metric={self.metric!r})"

    def _tenants(self) -> tuple[str, ...] | None:
        if self._info.tenants:
            raise TenantRequiredError(
                f"Collection {self.name!r} has tenants; call the verb of one of them, as in "
                f"tenant('name')."
            )
        return None

    def _own(self, verb: str, body: Any = None, **names: str) -> Any:
        """Carry out a verb that is not about rows."""
        return self._transport.call(verb, {"collection": self.name, **names}, None, body)

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
        """Upsert many rows, in calls of at most 8 MB of vectors and 16,384 rows.

        Arguments are checked before the first call. Each call is atomic; where there are several,
        unlike with `Collection.load`, the whole is not, and a failure leaves those before it done.

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
                raise InvalidVectorError(f"vectors is {vectors!r}; pass an array (n, {self.dim}).")
            ids = np.arange(len(vectors), dtype=np.int64)
        if not self._info.tenants and tenants is not None:
            raise InvalidArgumentError(
                f"Collection {self.name!r} has no tenants; leave the argument out."
            )
        parsed = parse_ids(ids)
        array = as_array(vectors, self.dim, self.name, parsed.scalar)
        n = len(parsed)
        if len(array) != n:
            raise InvalidArgumentError(f"{n} ids for {len(array)} vectors; lengths must agree.")
        if tenants is None:
            self._tenants()
            check_unique(parsed)
        else:
            check_unique_by_tenant(parsed, parse_column(tenants, n))
        texts = parse_documents(documents, n, parsed.scalar)
        facts = parse_metadata(metadata, n, parsed.scalar)
        check_values(array, Metric.parse(self.metric))
        report = progress or (lambda stage, done, total: None)
        step = min(_CALL_ROWS_MAX, max(1, _CALL_BYTES // (4 * self.dim)))
        for start in range(0, n, step):
            end = min(n, start + step)
            body = {
                "ids": parsed.part(np.arange(start, end)).plain(),
                "vectors": np.ascontiguousarray(array[start:end], np.float32),
                "metadata": None if facts is None else list(facts[start:end]),
                "documents": None if texts is None else list(texts[start:end]),
                "tenants": None if tenants is None else _plain(tenants[start:end]),
            }
            self._own("load", body)
            report("load", end, n)

    def stats(self) -> dict[str, Any]:
        """Describe size, shape and calibration; see the README for the fields."""
        described: dict[str, Any] = self._own("stats").stats
        return described

    # --- tenants ---------------------------------------------------------------------------

    def tenant(self, *names: str) -> Any:
        """View one tenant, or several together for reading; see `vecstore.Collection.tenant`."""
        self._need_tenants()
        if not names:
            raise TenantRequiredError("tenant() names none; name one, a non-empty str.")
        parsed = tuple(dict.fromkeys(map(parse_tenant, names)))
        if len(names) == 1:
            return RemoteTenant(self._transport, self._info, parsed[0])
        return RemoteTenantUnion(self._transport, self._info, parsed)

    def tenants(self) -> list[str]:
        """Names of all tenants, sorted."""
        self._need_tenants()
        names: list[str] = self._own("tenants").tenants
        return names

    def drop_tenant(self, name: str) -> None:
        """Delete a tenant with all its rows, for everybody; its name may be used anew at once."""
        self._need_tenants()
        self._own("drop_tenant", name=parse_tenant(name))

    def set_quota(
        self,
        name: str,
        rows: int | None = None,
        k: int | None = None,
        query_bytes: int | None = None,
        where: int | None = None,
    ) -> None:
        """Limit what a tenant may store and ask for; None lifts a limit."""
        self._need_tenants()
        parsed = parse_tenant(name)
        quota = {"rows": rows, "k": k, "query_bytes": query_bytes, "where": where}
        for limit, value in quota.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InvalidArgumentError(f"{limit} is {value!r}; use an int, or None.")
            if value is not None and not 0 <= value <= INT_ID_MAX:
                shown = value if abs(value) <= 2**64 else f"an int of {value.bit_length()} bits"
                raise InvalidArgumentError(f"{limit} is {shown}; use 0 to 2**63 - 1, or None.")
        self._own("set_quota", quota, name=parsed)

    def _need_tenants(self) -> None:
        if not self._info.tenants:
            raise TenantRequiredError(
                f"Collection {self.name!r} has no tenants; call its own verbs, or create one "
                f"with tenants=True."
            )

    # --- maintenance -----------------------------------------------------------------------

    def compact(self, progress: Progress | None = None) -> None:
        """Merge extents and give back what is dead; `progress` is told the end only."""
        self._own("compact")
        if progress is not None:
            progress("compact", 1, 1)

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
        """Choose codec and effort by measurement; see `vecstore.Collection.tune`."""
        if queries is not None:
            queries = as_array(queries, self.dim, self.name, False)
            check_values(queries, Metric.parse(self.metric), "Query")
            queries = np.ascontiguousarray(queries, np.float32)
        body = {
            "queries": queries,
            "recall": recall,
            "k": parse_k(k),
            "ram_bytes": ram_bytes,
            "disk_bytes": disk_bytes,
            "codecs": None if codecs is None else list(codecs),
        }
        tuned = msgspec.convert(self._own("tune", body).tuning, Tuning)
        if progress is not None:
            progress("tune", 1, 1)
        return tuned

    def tuning(self) -> Tuning | None:
        """Return the last decision of `tune` with its evidence; None when there was none."""
        return msgspec.convert(self._own("tuning").tuning, Tuning | None)


def _plain(tenants: Any) -> list[Any]:
    """A part of a column of tenants as lists."""
    return [
        parse_tenant(name) if isinstance(name, str) else list(map(parse_tenant, name))
        for name in tenants
    ]
