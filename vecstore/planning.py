"""How one query is answered: which rows may be found, and how much is read to find them.

A filter that few rows match is answered by exact distances of these rows; one that many match
runs inside the scan, over a bitmap of the rows that match, and the fewer they are, the more
postings are probed.  Either way as many hits come back as there are matching rows, up to k.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.attributes import matching
from vecstore.calibrate import (
    COST_BYTE_NS,
    COST_POSTING_NS,
    COST_RERANK_NS,
    effort_of,
)
from vecstore.config import RECALL_DEFAULT, Effort
from vecstore.errors import QuotaExceededError
from vecstore.filters import Filter
from vecstore.inputs import parse_recall
from vecstore.rowsets import RowSet
from vecstore.search import effort_array
from vecstore.tenant_view import TenantView
from vecstore.transaction import Transaction

U32 = NDArray[np.uint32]
PLANS_MAX = 64
"""Plans that a view of a tenant remembers."""
PLANS_BYTES = 8 << 20
"""Bytes that they may take before the next one is kept."""
RERANKED = 100
"""Rows that a query is taken to rerank, when what it reads is estimated."""


@dataclass(frozen=True)
class Plan:
    """How a query is answered.

    Attributes
    ----------
    view : TenantView
        Of the rows that may be found.
    effort : Effort or None
        None for exact distances of all of them.
    settings : float64 array
        The effort as kernels take it.
    """

    view: TenantView
    effort: Effort | None
    settings: NDArray[np.float64]

    @cached_property
    def bytes(self) -> int:
        """What one query should read of codes and vectors, by estimate."""
        view, effort = self.view, self.effort
        row_bytes = view.snapshot.identity.row_bytes
        if effort is None:
            return view.rows * row_bytes
        postings = min(effort.probes, len(view.index.first_run) - 1)
        codec, dim = view.snapshot.extents.codec, view.snapshot.identity.record.dim
        codes = postings * view.index.mean_entries * codec.row_bytes(dim)
        return int(codes) + RERANKED * row_bytes


def make_plan(
    transaction: Transaction,
    view: TenantView,
    where: Filter | None,
    recall: float | None,
    k: int,
) -> Plan:
    """Plan a query of one tenant; plans are remembered with the view.

    Raises
    ------
    QuotaExceededError
    """
    if type(recall) is not float:
        recall = parse_recall(recall)
    if view.limited:
        _check_asked(view, where, k)
    hits = min(k, max(1, view.rows))
    key = (None if where is None else where.name, recall, hits)
    plan: Plan | None = view.plans.get(key)
    if plan is None:
        target = parse_recall(recall)
        if target is None:
            target = view.snapshot.state.tuned_recall or RECALL_DEFAULT
        if where is None:
            plan = _plan(view, effort_of(view, target, hits))
        else:
            plan = _plan_filtered(transaction, view, where, target, hits)
        _remember(view, key, plan)
    if view.limited:
        _check_read(view, plan)
    return plan


def _remember(view: TenantView, key: Any, plan: Plan) -> None:
    """Keep a plan with its view, whose bytes count among those of all views."""
    if len(view.plans) >= PLANS_MAX or view.plans.nbytes > PLANS_BYTES:
        view.plans.clear()
    view.plans[key] = plan
    own = plan.view.arrays[len(view.arrays) :]
    view.plans.nbytes += 2_048 + sum(array.nbytes for array in own)
    view.snapshot.tenants.recount(view.number, view.nbytes)


def _plan(view: TenantView, effort: Effort | None) -> Plan:
    return Plan(view.listed if effort is None else view, effort, effort_array(effort))


def _plan_filtered(
    transaction: Transaction, view: TenantView, where: Filter, recall: float, k: int
) -> Plan:
    """Plan a query over the rows that a filter matches, by how many they are."""
    rows = matching_set(transaction, view, where)
    if len(rows) == view.rows:
        return _plan(view, effort_of(view, recall, k))
    effort = effort_of(view, recall, max(k, round(k * view.rows / max(1, len(rows)))))
    if effort is None or _exact_is_cheaper(view, effort, len(rows)):
        return _plan(view.only(rows), None)
    return _plan(view.narrowed(rows), effort)


def _exact_is_cheaper(view: TenantView, effort: Effort, rows: int) -> bool:
    """Whether exact distances of the matching rows cost less than probing for them."""
    codec, dim = view.snapshot.extents.codec, view.snapshot.identity.record.dim
    rerank = COST_RERANK_NS * (0.5 + dim / 256)
    posting = COST_POSTING_NS + view.index.mean_entries * codec.row_bytes(dim) * COST_BYTE_NS
    postings = min(effort.probes, len(view.index.first_run) - 1)
    return rows * rerank / 3 <= postings * posting + RERANKED * rerank  # asked for ahead


def matching_rows(transaction: Transaction, view: TenantView, where: Filter) -> U32:
    """Rows of a tenant that a filter matches, ascending."""
    return matching_set(transaction, view, where).rows


def matching_set(transaction: Transaction, view: TenantView, where: Filter) -> RowSet:
    """Rows of a tenant that a filter matches; remembered with the view."""
    known = view.matches.get(where.name)
    if known is not None:
        return known
    snapshot = view.snapshot
    fresh: Iterable[tuple[int, dict[str, Any] | None]] = ()
    if len(view.fresh):
        new = view.live_fresh().tolist()
        metadata = snapshot.metadata(transaction, new)
        fresh = zip(new, metadata, strict=True)
    sources, words = snapshot.extents.attributes, len(view.live)
    found = matching(where, view.number, sources, fresh, lambda: view.universe, words)
    found &= view.live_set
    if view.record.ever_granted:  # an index may hold rows that were revoked since
        found &= view.universe
    kept = view.matches.put(where.name, found, found.nbytes)
    snapshot.tenants.recount(view.number, view.nbytes)
    return kept


def _check_asked(view: TenantView, where: Filter | None, k: int) -> None:
    """Raise when a tenant's quota does not allow to ask so much, before anything is done for it."""
    record = view.record
    if record.quota_k is not None and k > record.quota_k:
        raise QuotaExceededError(
            f"Tenant {record.name!r} may ask for k = {record.quota_k} at most, not {k}; lower k, "
            f"or raise the limit with set_quota."
        )
    check_where_quota(view, where)


def _check_read(view: TenantView, plan: Plan) -> None:
    """Raise when a query would read more than its tenant's quota allows."""
    record = view.record
    if record.quota_query_bytes is not None and plan.bytes > record.quota_query_bytes:
        raise QuotaExceededError(
            f"This query of tenant {record.name!r} would read about {plan.bytes} bytes and may "
            f"read {record.quota_query_bytes}; ask for less recall or fewer hits, or raise the "
            f"limit with set_quota."
        )


def check_where_quota(view: TenantView, where: Filter | None) -> None:
    """Raise when a filter has more terms than its tenant may use."""
    limit = view.record.quota_where
    if where is not None and limit is not None and where.terms > limit:
        raise QuotaExceededError(
            f"This filter has {where.terms} terms, and tenant {view.record.name!r} may use "
            f"{limit}; simplify it, or raise the limit with set_quota."
        )
