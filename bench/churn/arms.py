"""The arms: one store each, kept in shape by all of the engine's means or by some of them.

``append`` never changes a posting, ``split`` divides, dissolves and renews postings but leaves
centroids where they are and looks at no rows beside divisions, ``reassign`` is the engine as it
ships, and ``rebuild`` is a new store after each round.  What an arm leaves out is switched off by
limits of the engine's modules, in this process and only while the arm writes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import vecstore
from bench.churn.ask import NAME
from bench.churn.stream import Stream
from vecstore import balance, compaction

I64 = NDArray[np.int64]
ARMS = ("append", "split", "reassign", "rebuild")
CALL_ROWS = 1_000
"""Rows of one delete and of one upsert."""


@dataclass
class Arm:
    """One store and what was done to it.

    Attributes
    ----------
    trimmed : int
        Entries that merging left out because their rows had outgrown them.
    calls_s : list of float
        Duration of each write call since the last `take_calls`.
    """

    name: str
    folder: Path
    stream: Stream
    maintenance: str = "background"
    store: Any = None
    docs: Any = None
    trimmed: int = 0
    calls_s: list[float] = field(default_factory=list)

    @property
    def follows(self) -> bool:
        """Whether the store lives through the rounds."""
        return self.name != "rebuild"

    def build(self, round_: int) -> float:
        """Make the store anew of the rows that stand after a round; seconds."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.store = vecstore.open(self.folder, maintenance=self.maintenance)
        dim, metric = self.stream.base.shape[1], self.stream.metric
        self.docs = self.store.collection(NAME, dim=dim, metric=metric)
        rows = self.stream.standing(round_)
        vectors = self.stream.take(rows)
        began = time.perf_counter()
        self.docs.load(vectors, rows)
        self._settle()
        return time.perf_counter() - began

    def write(self, leaving: I64, coming: I64, rows_s: int) -> None:
        """Delete rows and insert others, in small calls by turns.

        Parameters
        ----------
        rows_s : int
            Rows deleted, and inserted, a second at most; 0 for as fast as it goes.
        """
        began = time.perf_counter()
        with self.limits():
            for start in range(0, len(coming), CALL_ROWS):
                if rows_s:
                    time.sleep(max(0.0, began + start / rows_s - time.perf_counter()))
                gone, come = leaving[start : start + CALL_ROWS], coming[start : start + CALL_ROWS]
                vectors = self.stream.take(come)
                self._timed(self.docs.delete, gone)
                self._timed(self.docs.upsert, come, vectors)
            self._settle()

    def _settle(self) -> None:
        """Wait for the store's thread of maintenance, which works under the arm's limits too."""
        while self.store._maintenance._thread is not None:
            time.sleep(0.005)

    def compact(self) -> float:
        """Compact; seconds."""
        began = time.perf_counter()
        with self.limits():
            self.docs.compact()
            self._settle()
        return time.perf_counter() - began

    def _timed(self, verb: Any, *arguments: Any) -> None:
        began = time.perf_counter()
        verb(*arguments)
        self.calls_s.append(time.perf_counter() - began)

    def take_calls(self) -> list[float]:
        """Seconds of the calls since the last time."""
        taken, self.calls_s = self.calls_s, []
        return taken

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Switch off what the arm goes without, and count what merging drops."""
        kept = balance.trim

        def counted(entries: Any, *arguments: Any) -> Any:
            found = kept(entries, *arguments)
            self.trimmed += len(entries.places) - len(found.places)
            return found

        indexer = self.docs._core.writer._indexer
        indexer.balance = self.name != "append"
        with patch.object(compaction, "trim", counted):
            if self.name != "split":
                yield
                return
            with (
                patch("vecstore.reshaping.ATTRACTED", 0),
                patch("vecstore.reshaping.STEPS", 0),
            ):
                yield

    def counters(self) -> dict[str, int]:
        """What keeping postings in shape has done since the store was opened."""
        tally = asdict(self.docs._core.writer._indexer.tally)
        return {**tally, "trimmed": self.trimmed}

    def close(self) -> None:
        """Close the store."""
        if self.store is not None:
            self.store.close()
            self.store = self.docs = None
