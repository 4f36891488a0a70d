"""What reads return."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Hit(msgspec.Struct, frozen=True):
    """One row found.

    Attributes
    ----------
    id : int or str
    distance : float or None
        In the collection's metric, smaller is closer; None from `get`.
    metadata, document, vector
        As stored; None where absent or not asked for. A vector is float32 (dim,).
    tenant : str or None
        Owner of the row; None in a collection without tenants.
    """

    id: int | str
    distance: float | None = None
    metadata: dict[str, Any] | None = None
    document: str | None = None
    vector: NDArray[np.float32] | None = None
    tenant: str | None = None


class Explanation(msgspec.Struct, frozen=True):
    """How a query was answered, and what it read; of a union the sums over its tenants.

    Attributes
    ----------
    plan : list of str
        For each tenant "exact" (all rows that may be found), "scan" (one posting, whole) or
        "probe" (the nearest postings).
    rows : int
        Rows that may be found: all, or those that the filter matches.
    probes : int
        Postings that the effort for the recall allows, at most.
    postings, scanned, refined, reranked : int
        Postings looked at, codes in them, codes looked at closer, and vectors compared exactly.
    bytes : int
        What the plan was taken to read of codes and vectors.
    asked, asked_bytes : int
        Pieces of files that the search asked the system for before it read them, and their pages;
        0 while pages are found in memory.
    disk_bytes : int
        What the search had the disk read, ahead of later queries too.
    microseconds : float
        Time of the search itself.
    hits : list of Hit
    """

    plan: list[str]
    rows: int
    probes: int
    postings: int
    scanned: int
    refined: int
    reranked: int
    bytes: int
    asked: int
    asked_bytes: int
    disk_bytes: int
    microseconds: float
    hits: list[Hit]


class Result(msgspec.Struct, frozen=True):
    """Answers to a batch of queries.

    Attributes
    ----------
    ids : int64 (n, k), or object for str ids
        Places without an answer hold -1, or None.
    distances : float32 (n, k)
        Places without an answer hold +inf.
    tenants : object (n, k), or None
        Owners of the rows; None in a collection without tenants.
    """

    ids: NDArray[Any]
    distances: NDArray[np.float32]
    tenants: NDArray[Any] | None = None


class Violation(msgspec.Struct, frozen=True):
    """An invariant that does not hold.

    Attributes
    ----------
    invariant : str
        Its name.
    where : str
        Collection, and what else tells the place.
    detail : str
        What was found.
    """

    invariant: str
    where: str
    detail: str


class Candidate(msgspec.Struct, frozen=True):
    """What one codec gave with one effort.

    Attributes
    ----------
    codec : str
    probes : int
        Postings scanned at most.
    bound : float
        Share of the code's error bound that decides which rows are reranked: the rerank depth.
    spread : float
        A posting is scanned when rank / probes + (distance / nearest - 1) / spread < 1, its
        centroid being number `rank`, from 0, by distance.
    recall, recall_low, recall_high : float
        Measured recall and its 95 % confidence interval.
    microseconds : float
        Median time of one query, all candidates timed in turn.
    rows_scanned, rows_reranked : float
        Codes looked at and raw rows read, per query.
    posting_bytes, disk_bytes : int
        Of the postings, and of the collection.
    ram_bytes : int
        Tables and directory.
    meets_recall, fits : bool
        It reaches the recall asked for (less two standard errors), and is within the budgets.
    """

    codec: str
    probes: int
    bound: float
    spread: float
    recall: float
    recall_low: float
    recall_high: float
    microseconds: float
    rows_scanned: float
    rows_reranked: float
    posting_bytes: int
    disk_bytes: int
    ram_bytes: int
    meets_recall: bool
    fits: bool


class Tuning(msgspec.Struct, frozen=True):
    """A decision about codec and effort, and its evidence.

    Attributes
    ----------
    target : float
        Recall that was asked for.
    k : int
    queries : str
        What it was measured on.
    rows : int
        Rows of the collection then.
    chosen : Candidate
    candidates : list of Candidate
        All that were measured.
    """

    target: float
    k: int
    queries: str
    rows: int
    chosen: Candidate
    candidates: list[Candidate]

    def pareto(self) -> list[Candidate]:
        """Candidates that no other beats in both recall and time, by rising recall."""
        best: list[Candidate] = []
        for one in sorted(self.candidates, key=lambda one: (one.microseconds, -one.recall)):
            if not best or one.recall > best[-1].recall:
                best.append(one)
        return best
