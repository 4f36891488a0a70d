"""The clustering as a picture: centroids in two dimensions, and how long their postings are."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vecstore.errors import InvalidArgumentError
from vecstore.verbs import ReadVerbs, source_of

_POINTS_MAX: Final = 4_000
_FIT_ROWS_MAX: Final = 2_000


def picture(view: ReadVerbs) -> dict[str, Any]:
    """Project the centroids of a collection, or of a tenant, on their two main directions.

    Returns
    -------
    dict
        "x", "y" and "rows" (entries, copies and dead ones included) of each posting that is shown,
        "postings" in all, "variance" (share of the centroids' that the plane holds),
        "rows_indexed", and "rows_fresh", which stand in no posting yet.
    """
    reader, scope = source_of(view)
    if scope is not None and len(scope) != 1:
        raise InvalidArgumentError("Several tenants have several clusterings; name one tenant.")
    shown: dict[str, Any] = {
        "x": [], "y": [], "rows": [], "postings": 0, "variance": 0.0, "rows_indexed": 0,
        "rows_fresh": 0,
    }  # fmt: skip
    with reader.opened(scope) as (_, _, views):
        for one in views:
            counts = one.index.entry_counts()
            fresh = len(one.live_fresh())
            shown["postings"] = len(counts)
            shown["rows_fresh"] = fresh
            shown["rows_indexed"] = one.rows - fresh
            directory = one.index.directory
            if directory is None or not len(directory.centroids):
                continue
            step = -(-len(directory.centroids) // _POINTS_MAX)
            points = np.array(directory.centroids[::step], np.float64)
            plane, shown["variance"] = _project(points)
            shown["x"], shown["y"] = np.round(plane, 5).T.tolist()
            shown["rows"] = counts[::step].tolist()
    return shown


def _project(points: Any) -> tuple[Any, float]:
    """Principal components: points (n, 2), scaled to at most 1, and their share of the variance."""
    centred = points - points.mean(0)
    part = centred[:: -(-len(centred) // _FIT_ROWS_MAX)]
    _, values, directions = np.linalg.svd(part, full_matrices=False)
    plane = np.zeros((len(points), 2))
    plane[:, : len(directions[:2])] = centred @ directions[:2].T
    total = float((values**2).sum())
    share = float((values[:2] ** 2).sum()) / total if total else 0.0
    return plane / max(float(np.abs(plane).max()), 1e-30), share
