"""What `tune` is asked for, and which candidate wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.codecs import find_codec
from vecstore.errors import InvalidArgumentError, TargetNotMetError
from vecstore.extent_set import Identity
from vecstore.inputs import check_values, parse_k, parse_queries, parse_recall
from vecstore.results import Candidate

CODECS = (
    "rabitq1",
    "rabitq2",
    "rabitq3",
    "rabitq4",
    "rabitq6",
    "int4",
    "int8",
    "float16",
    "float32",
)
"""Candidates unless others are named."""
LEVEL = 1.03
"""Candidates that are this close in time are level, and the smaller one is taken."""


@dataclass(frozen=True)
class Request:
    """What is asked for; see `Collection.tune`."""

    queries: NDArray[np.float32] | None
    recall: float
    k: int
    ram_bytes: int | None
    disk_bytes: int | None
    codecs: tuple[str, ...]

    @classmethod
    def parse(
        cls,
        identity: Identity,
        queries: Any,
        recall: Any,
        k: Any,
        ram_bytes: Any,
        disk_bytes: Any,
        codecs: Any,
    ) -> Request:
        """Check the arguments of `Collection.tune`."""
        dim = identity.record.dim
        array = None
        if queries is not None:
            array = parse_queries(queries, dim, identity.name, False)
            check_values(array, identity.record.metric, "Query")
            if not len(array):
                raise InvalidArgumentError(
                    "queries is empty; pass some, or leave it out to use rows of the collection."
                )
        return cls(
            array,
            _parse_target(recall),
            parse_k(k),
            _parse_budget("ram_bytes", ram_bytes),
            _parse_budget("disk_bytes", disk_bytes),
            _parse_codecs(codecs, dim),
        )


def _parse_target(recall: Any) -> float:
    """Check the recall to tune for."""
    target = parse_recall(recall)
    if target is None or target >= 1.0:
        raise InvalidArgumentError(
            f"recall is {recall!r}; tune for more than 0 and less than 1. A query with recall=1.0 "
            f"scans all rows exactly and needs no tuning."
        )
    return target


def _parse_budget(name: str, value: Any) -> int | None:
    """Check a number of bytes."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidArgumentError(f"{name} is {value!r}; use a number of bytes, or None.")
    return int(value)


def _parse_codecs(names: Any, dim: int) -> tuple[str, ...]:
    """Check the names of candidates."""
    if names is None:
        return CODECS
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise InvalidArgumentError(f"codecs is {names!r}; pass a sequence of names.")
    found = tuple(dict.fromkeys(find_codec(name, dim).name for name in names))
    if not found:
        raise InvalidArgumentError("codecs is empty; name at least one, or leave it out.")
    return found


def fits(ram_bytes: int, disk_bytes: int, request: Request) -> bool:
    """Tell whether sizes are within the budgets."""
    return (request.ram_bytes is None or ram_bytes <= request.ram_bytes) and (
        request.disk_bytes is None or disk_bytes <= request.disk_bytes
    )


def _cheapest_meeting(candidates: list[Candidate], fitting: list[int]) -> list[int]:
    """Of each codec the first candidate that meets the target: queries will use that effort."""
    places: dict[str, int] = {}
    for place in fitting:
        if candidates[place].meets_recall:
            places.setdefault(candidates[place].codec, place)
    return list(places.values())


def best(candidates: list[Candidate], request: Request, left_out: dict[str, int]) -> int:
    """Place of the quickest candidate that meets the target; raises when none does.

    Candidates of one codec stand in the order of their cost.
    """
    fitting = [place for place, one in enumerate(candidates) if one.fits]
    if not fitting:
        least_ram = min((one.ram_bytes for one in candidates), default=request.ram_bytes)
        least_disk = min([*left_out.values(), *(one.disk_bytes for one in candidates)])
        raise TargetNotMetError(
            f"No candidate fits into ram_bytes={request.ram_bytes} and "
            f"disk_bytes={request.disk_bytes}; the least of any are {least_ram} and {least_disk}. "
            f"Allow more, or store raw rows in a smaller form (raw='int8'). Nothing was changed."
        )
    meeting = _cheapest_meeting(candidates, fitting)
    if not meeting:
        nearest = max((candidates[place] for place in fitting), key=lambda one: one.recall)
        raise TargetNotMetError(
            f"No candidate within the budgets reaches recall={request.recall}; the best, "
            f"{nearest.codec}, reached {nearest.recall:.4f} ({nearest.recall_low:.4f} to "
            f"{nearest.recall_high:.4f}). Ask for less, allow more, or use recall=1.0 in queries "
            f"for an exact scan. Nothing was changed."
        )
    quickest = min(candidates[place].microseconds for place in meeting)
    level = [place for place in meeting if candidates[place].microseconds <= LEVEL * quickest]
    return min(level, key=lambda place: candidates[place].posting_bytes)
