"""Figures about a collection."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import POSTING_ROWS_MAX
from vecstore.layout import ExtentKind
from vecstore.snapshot import Snapshot


def collection_stats(snapshot: Snapshot) -> dict[str, Any]:
    """Describe a snapshot.

    ``ram_bytes`` counts the collection's own tables and fresh rows; maps of files are not in it.
    ``overfull_postings`` counts those over the limit, until the next training divides them.
    ``disk_bytes`` counts its extents and its row log; ids and metadata of all collections share
    one LMDB file, which `Store.stats` reports.
    """
    extents = snapshot.extents
    state = snapshot.state
    stored = sum(extent.count for extent in extents.raws)
    directory = extents.directory
    sizes = np.zeros(0 if directory is None else len(directory.postings), np.int64)
    for part in extents.postings:
        if directory is not None:
            places = np.searchsorted(directory.postings, part.runs["posting"])
            np.add.at(sizes, places, part.runs["rows"])
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
        "disk_bytes": sum(record.bytes for record in extents.records.values())
        + snapshot.log_count * (snapshot.identity.row_bytes + 8),
        "raw_bytes": sum(extent.record.bytes for extent in extents.raws),
        "posting_bytes": sum(
            extent.record.bytes for extent in extents.of_kind(ExtentKind.POSTINGS)
        ),
        "ram_bytes": sum(table.nbytes for table in tables),
        "extents": len(extents.mapped),
        "tail_rows": snapshot.log_count,
        "codec": extents.codec.name,
        "raw": snapshot.identity.record.raw,
        "calibration": {
            "note": state.calibration_note,
            "efforts": [
                {"recall": e.recall, "probes": e.probes, "bound": e.bound, "spread": e.spread}
                for e in state.calibration
            ],
        },
    }
