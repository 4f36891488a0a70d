"""Figures about a collection."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import POSTING_ROWS_MAX
from vecstore.layout import ExtentKind
from vecstore.snapshot import Snapshot

GROWTH_TO_RETUNE = 4.0
DRIFT_TO_RETUNE = 1.5


def index_bytes(snapshot: Snapshot) -> tuple[int, int, int]:
    """Count the bytes of a snapshot.

    Returns
    -------
    ram, disk, postings : int
        Tables and directory; all extents and the row log; extents of postings.
    """
    extents = snapshot.extents
    tables: tuple[NDArray[Any], ...] = (
        extents.chunk_address,
        extents.chunk_order,
        extents.page_checked,
        extents.first_run,
        extents.run_address,
        extents.run_blocks,
        extents.run_source,
        extents.run_checked,
        snapshot.live,
        *snapshot.arrays,
    )
    ram = sum(table.nbytes for table in tables)
    ram += sum(extent.record.bytes for extent in extents.of_kind(ExtentKind.DIRECTORY))
    disk = sum(record.bytes for record in extents.records.values())
    disk += snapshot.log_count * (snapshot.identity.row_bytes + 8)
    return ram, disk, sum(part.record.bytes for part in extents.of_kind(ExtentKind.POSTINGS))


def _tuning(snapshot: Snapshot) -> dict[str, Any] | None:
    """When the collection was tuned, and whether it should be again."""
    state = snapshot.state
    if state.tuned_recall is None:
        return None
    advice = ""
    if state.live_rows >= GROWTH_TO_RETUNE * max(1, state.tuned_rows):
        advice = f"tune again: {state.live_rows} rows now, {state.tuned_rows} then"
    elif _drift(snapshot) > DRIFT_TO_RETUNE:
        advice = "tune again: newer rows are farther from their centroids than those of then"
    return {"recall": state.tuned_recall, "rows": state.tuned_rows, "advice": advice}


def _drift(snapshot: Snapshot) -> float:
    """Squared distance of rows to their centroids, of later ones relative to trained ones."""
    state = snapshot.state
    return state.later_spread / state.trained_spread if state.trained_spread else 1.0


def collection_stats(snapshot: Snapshot) -> dict[str, Any]:
    """Describe a snapshot.

    ``ram_bytes`` counts the collection's tables, fresh rows and directory of centroids; other
    maps of files are not in it.
    ``overfull_postings`` counts those over the limit, until the next training divides them.
    ``disk_bytes`` counts its extents and its row log; ids and metadata of all collections share
    one LMDB file, which `Store.stats` reports.
    """
    extents = snapshot.extents
    state = snapshot.state
    ram_bytes, disk_bytes, posting_bytes = index_bytes(snapshot)
    stored = sum(extent.count for extent in extents.raws)
    directory = extents.directory
    sizes = np.zeros(0 if directory is None else len(directory.postings), np.int64)
    for part in extents.postings:
        if directory is not None:
            places = np.searchsorted(directory.postings, part.runs["posting"])
            np.add.at(sizes, places, part.runs["rows"])
    return {
        "rows": state.live_rows,
        "dead_rows": stored + snapshot.log_count - state.live_rows,
        "postings": 0 if directory is None else len(directory.postings),
        "posting_entries": int(sizes.sum()),
        "posting_rows_p99": float(np.percentile(sizes, 99)) if len(sizes) else 0.0,
        "posting_rows_cv": float(sizes.std() / sizes.mean()) if len(sizes) else 0.0,
        "overfull_postings": int((sizes > POSTING_ROWS_MAX).sum()),
        "tree_nodes": 0 if directory is None else len(directory.supers),
        "tenants": 0,
        "disk_bytes": disk_bytes,
        "raw_bytes": sum(extent.record.bytes for extent in extents.raws),
        "posting_bytes": posting_bytes,
        "ram_bytes": ram_bytes,
        "extents": len(extents.mapped),
        "tail_rows": snapshot.log_count,
        "codec": extents.codec.name,
        "raw": snapshot.identity.record.raw,
        "tuning": _tuning(snapshot),
        "drift": _drift(snapshot),
        "calibration": {
            "note": state.calibration_note,
            "efforts": [
                {"recall": e.recall, "probes": e.probes, "bound": e.bound, "spread": e.spread}
                for e in state.calibration
            ],
        },
    }
