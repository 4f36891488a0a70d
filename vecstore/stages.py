"""Working through a stage of a long build: job by job, and not again what is done already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Piece = tuple[I32, F32]
"""Finished work: numbers, and vectors (n, dim)."""


class Workers(Protocol):
    """Threads, or what stands for them."""

    def map(self, work: Callable[[int], Any], jobs: list[int], /) -> Iterator[Any]:
        """Do jobs, several at a time; results come in their order."""


class Keeper(Protocol):
    """Keeps what a clustering has finished, so that it need not be done again.

    Attributes
    ----------
    rows : int
        Rows of a piece of work that is worth keeping.
    """

    rows: int

    def find(self, stage: str, first: int) -> Piece | None:
        """Get what was kept of a stage, from job number `first` on; None when nothing was."""

    def keep(self, stage: str, first: int, piece: Piece) -> None:
        """Keep it."""


def work_through(
    stage: str,
    ends: I64,
    work: Callable[[int], None],
    collect: Callable[[int, int], Piece],
    restore: Callable[[int, int, Piece], None],
    pool: Workers,
    progress: Callable[[str, int, int], None],
    keeper: Keeper | None,
) -> None:
    """Do the jobs of a stage, those left out that an earlier build has done and kept.

    Parameters
    ----------
    stage : str
    ends : int64 (jobs,)
        Rows that are done with after each job.
    work : callable
        `work(job)` does one.
    collect : callable
        `collect(first, end)` gathers what jobs `first` to `end` - 1 made.
    restore : callable
        `restore(first, end, piece)` puts it in its place again.
    """
    total = int(ends[-1]) if len(ends) else 0
    bounds = [0, len(ends)]
    if keeper is not None:
        steps = np.arange(keeper.rows, total, keeper.rows)
        bounds = np.unique([0, *(np.searchsorted(ends, steps) + 1), len(ends)]).tolist()
    pieces = list(pairwise(bounds))
    done = 0
    for first, end in pieces:  # kept in their order
        piece = None if keeper is None else keeper.find(stage, first)
        if piece is None:
            break
        restore(first, end, piece)
        done = end
    if done:
        progress(stage, int(ends[done - 1]), total)
    results = pool.map(work, list(range(done, len(ends))))
    for first, end in pieces:
        if first < done:
            continue
        for job in range(first, end):
            next(results)
            progress(stage, int(ends[job]), total)
        if keeper is not None:
            keeper.keep(stage, first, collect(first, end))
