"""Figures about a collection."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import POSTING_ROWS_MAX
from vecstore.layout import ExtentKind, TenantRecord
from vecstore.lookups import build_pieces
from vecstore.snapshot import Snapshot
from vecstore.tenant_view import TenantView, open_tenant
from vecstore.transaction import Transaction

GROWTH_TO_RETUNE = 4.0
DRIFT_TO_RETUNE = 1.5


def index_bytes(tenant: TenantView) -> tuple[int, int, int]:
    """Count the bytes of a collection as one of its tenants sees it.

    Returns
    -------
    ram, disk, postings : int
        Tables and directory; all extents and the row log; extents of postings.
    """
    snapshot = tenant.snapshot
    extents, index = snapshot.extents, tenant.index
    tables: tuple[NDArray[Any], ...] = (
        extents.chunk_table,
        snapshot.live,
        *snapshot.arrays,
    )
    ram = sum(table.nbytes for table in tables)
    ram += sum(raw.nbytes for raw in extents.raws)
    ram += index.table_bytes
    ram += 0 if index.directory is None else index.directory.nbytes
    disk = sum(record.bytes for record in extents.records.values())
    disk += snapshot.log_count * (snapshot.identity.row_bytes + 8)
    return ram, disk, sum(part.record.bytes for part in extents.of_kind(ExtentKind.POSTINGS))


def _tuning(snapshot: Snapshot, record: TenantRecord) -> dict[str, Any] | None:
    """When the collection was tuned, and whether it should be again."""
    state = snapshot.state
    if state.tuned_recall is None:
        return None
    advice = ""
    if state.live_rows >= GROWTH_TO_RETUNE * max(1, state.tuned_rows):
        advice = f"tune again: {state.live_rows} rows now, {state.tuned_rows} then"
    elif _drift(record) > DRIFT_TO_RETUNE:
        advice = "tune again: newer rows are farther from their centroids than those of then"
    return {"recall": state.tuned_recall, "rows": state.tuned_rows, "advice": advice}


def _drift(record: TenantRecord) -> float:
    """Squared distance of rows to their centroids, of later ones relative to trained ones."""
    return record.later_spread / record.trained_spread if record.trained_spread else 1.0


def collection_stats(snapshot: Snapshot, transaction: Transaction) -> dict[str, Any]:
    """Describe a snapshot.

    ``ram_bytes`` counts the collection's tables, fresh rows and directory of centroids, with
    tenants those in the cache; other maps of files are not in it.
    ``unfinished_bytes`` is what a load that was cut short has left to go on from.
    ``overfull_postings`` counts those over the limit, until the next training divides them.
    ``disk_bytes`` counts its extents and its row log; ids and metadata of all collections share
    one LMDB file, which `Store.stats` reports.
    """
    extents = snapshot.extents
    state = snapshot.state
    tenant = open_tenant(snapshot, transaction)
    record = tenant.record
    ram_bytes, disk_bytes, posting_bytes = index_bytes(tenant)
    stored = sum(raw.stored for raw in extents.raws)
    pieces = build_pieces(transaction, snapshot.identity.record.number)
    if snapshot.identity.record.tenants:
        runs = [part.runs["rows"] for part in extents.postings]
        sizes = np.concatenate([np.zeros(0, np.uint32), *runs]).astype(np.int64)
        postings = sum(int(own.table["postings"].sum()) for own in extents.directories.values())
        nodes = sum(int(own.table["pages"].sum()) for own in extents.directories.values())
        ram_bytes += snapshot.tenants.nbytes
    else:
        sizes = tenant.index.entry_counts()
        postings = len(sizes)
        directory = tenant.index.directory
        nodes = 0 if directory is None else max(1, len(directory.supers))
    return {
        "rows": state.live_rows,
        "dead_rows": stored + snapshot.log_count - state.live_rows,
        "postings": postings,
        "posting_entries": int(sizes.sum()),
        "posting_rows_p99": float(np.percentile(sizes, 99)) if len(sizes) else 0.0,
        "posting_rows_cv": float(sizes.std() / sizes.mean()) if len(sizes) else 0.0,
        "overfull_postings": int((sizes > POSTING_ROWS_MAX).sum()),
        "tree_nodes": nodes,
        "tenants": state.tenants,
        "shared_rows": state.shared_rows,
        "disk_bytes": disk_bytes,
        "raw_bytes": sum(raw.extent.record.bytes for raw in extents.raws),
        "posting_bytes": posting_bytes,
        "ram_bytes": ram_bytes,
        "unfinished_bytes": sum(one.extent.bytes for one in pieces),
        "extents": len(extents.mapped),
        "tail_rows": snapshot.log_count,
        "codec": extents.codec.name,
        "raw": snapshot.identity.record.raw,
        "tuning": _tuning(snapshot, record),
        "drift": _drift(record),
        "calibration": {
            "note": record.calibration_note,
            "efforts": [
                {"recall": e.recall, "probes": e.probes, "bound": e.bound, "spread": e.spread}
                for e in record.calibration
            ],
        },
    }
