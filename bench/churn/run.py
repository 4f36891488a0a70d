"""The order of things: all arms go through each round together, and each round is saved."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.churn import measure
from bench.churn.arms import Arm
from bench.churn.ask import Asker, ProcessAsker, ThreadAsker
from bench.churn.disk import Watch, sizes
from bench.churn.stream import Asked, Stream
from bench.tenants.records import Record

I64 = NDArray[np.int64]
SIDES = ("thread", "process")
"""Where the queries beside the writes come from; each has half of a round's writes."""
WARM_S = 0.5
"""Seconds of queries before those that count."""


@dataclass(frozen=True)
class Terms:
    """How a run measures.

    Attributes
    ----------
    queries, k : int
        Of each round.
    quiet_s : float
        Seconds of queries without writes, before the writes of each round and on each side.
    rows_s : int
        Rows deleted, and inserted, a second; 0 for as fast as it goes.
    maintenance : str
        Of the stores; whatever it is, a round ends when nothing is due any more.
    """

    queries: int
    k: int
    quiet_s: float
    rows_s: int
    maintenance: str


class Contest:
    """All arms, and what watches them."""

    def __init__(
        self,
        stream: Stream,
        names: Sequence[str],
        work: Path,
        terms: Terms,
        record: Record,
        say: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._arms = {name: Arm(name, work / name, stream, terms.maintenance) for name in names}
        self._terms = terms
        self._record = record
        self._say = say
        self._latencies: dict[str, list[I64]] = {}
        self._askers: dict[str, ProcessAsker] = {}
        self._watches: dict[str, Watch] = {}
        self._rounds: list[dict[str, Any]] = []
        self._began = time.perf_counter()

    def run(self) -> None:
        """Go through all rounds, then compact."""
        data = self._record.data
        data["stream"] = self._stream.described()
        data["rounds"] = self._rounds
        with ExitStack() as stack:
            asked = self._asked(0)
            for arm in self._arms.values():
                stack.callback(arm.close)
                seconds = arm.build(0)
                self._tell(0, f"{arm.name} built in {seconds:.1f} s")
                if arm.follows:
                    self._follow(arm, stack)
            self._finish_round(0, asked, {name: {} for name in self._arms})
            for round_ in range(1, self._stream.rounds + 1):
                writes = {name: self._write(arm, round_, asked) for name, arm in self._arms.items()}
                asked = self._asked(round_)
                self._finish_round(round_, asked, writes)
            data["compacted"] = self._compacted(asked)
        self._save()

    def _follow(self, arm: Arm, stack: ExitStack) -> None:
        asker = ProcessAsker(arm.folder)
        stack.callback(asker.close)
        self._askers[arm.name] = asker
        watch = Watch(arm.folder, [os.getpid(), asker.pid])
        self._watches[arm.name] = stack.enter_context(watch)

    def _asked(self, round_: int) -> Asked:
        return self._stream.asked(round_, self._terms.queries, self._terms.k)

    def _write(self, arm: Arm, round_: int, asked: Asked) -> dict[str, Any]:
        """Write what a round brings, with queries beside it; build anew where the arm does so."""
        if not arm.follows:
            seconds = arm.build(round_)
            self._tell(round_, f"{arm.name} built in {seconds:.1f} s")
            return {"seconds": seconds}
        leaving, coming = self._stream.leaving(round_), self._stream.coming(round_)
        cut = len(coming) // 2
        before, counted = measure.written_bytes(), arm.counters()
        process = self._askers[arm.name]
        process.prepare(asked.queries, self._terms.k)
        thread = ThreadAsker(arm.docs, asked.queries, self._terms.k)
        sides: dict[str, Asker] = dict(zip(SIDES, (thread, process), strict=True))
        halves = dict(zip(SIDES, (slice(0, cut), slice(cut, None)), strict=True))
        watch, seconds = self._watches[arm.name], 0.0
        watch.peak()
        found: dict[str, Any] = {"latency": {}}
        for side, asker in sides.items():
            asker.quiet(WARM_S)  # what was written since the last time is looked at once
            quiet = asker.quiet(self._terms.quiet_s)
            asker.start()
            began = time.perf_counter()
            arm.write(leaving[halves[side]], coming[halves[side]], self._terms.rows_s)
            seconds += time.perf_counter() - began
            busy = asker.stop()
            for state, latency in (("quiet", quiet), ("busy", busy)):
                self._latencies.setdefault(f"{arm.name}-{side}-{state}", []).append(latency)
                if len(latency):
                    found["latency"][f"{side} {state}"] = measure.figures(latency)
        calls = arm.take_calls()
        self._tell(round_, f"{arm.name} written in {seconds:.1f} s")
        return {
            **found,
            "seconds": seconds,
            "call_s_max": max(calls),
            "call_s_p50": float(np.median(calls)),
            "disk_peak": watch.peak(),
            "written_bytes": measure.written_bytes() - before,
            "engine": {name: n - counted[name] for name, n in arm.counters().items()},
        }

    def _finish_round(self, round_: int, asked: Asked, writes: dict[str, dict[str, Any]]) -> None:
        measured = self._measured(asked)
        self._rounds.append(
            {
                "round": round_,
                "arms": {name: {**writes[name], **measured[name]} for name in self._arms},
            }
        )
        self._save()
        told = ", ".join(
            f"{name} {own['fixed']['16']['recall']:.3f} ({own['fixed']['16']['scanned']:.0f}) "
            f"{own['calibrated']['recall']:.3f} ({own['calibrated']['scanned']:.0f})"
            for name, own in measured.items()
        )
        self._tell(round_, f"recall at 16 probes (rows), as calibrated (rows): {told}")

    def _measured(self, asked: Asked) -> dict[str, dict[str, Any]]:
        """Measure all arms on the same queries, the timed passes in turns."""
        k = self._terms.k
        found: dict[str, dict[str, Any]] = {}
        for name, arm in self._arms.items():
            found[name] = {
                "fixed": measure.fixed(self._stream, arm.docs, asked, k),
                "calibrated": measure.calibrated(self._stream, arm.docs, asked, k),
                "shape": measure.shape(arm.docs),
                "disk": sizes(arm.folder),
            }
        passes: dict[str, list[dict[str, float]]] = {name: [] for name in self._arms}
        for _ in range(measure.PASSES):
            for name, arm in self._arms.items():
                latency = measure.query_ns(arm.docs, asked.queries, k)
                passes[name].append(measure.figures(latency))
        for name, own in passes.items():
            keys = ("mean_us", "p50_us", "p99_us")
            found[name]["query"] = {key: float(np.median([p[key] for p in own])) for key in keys}
        return found

    def _compacted(self, asked: Asked) -> dict[str, Any]:
        """Compact all arms and measure them a last time."""
        told: dict[str, Any] = {}
        for name, arm in self._arms.items():
            if not arm.follows:
                continue
            self._watches[name].peak()
            before, trimmed = measure.written_bytes(), arm.trimmed
            seconds = arm.compact()
            told[name] = {
                "seconds": seconds,
                "trimmed": arm.trimmed - trimmed,
                "written_bytes": measure.written_bytes() - before,
                "disk_peak": self._watches[name].peak(),
            }
        for name, own in self._measured(asked).items():
            told[name] = {**told.get(name, {}), **own}
        for name, arm in self._arms.items():
            told[name]["violations"] = [str(one) for one in arm.store.check()]
        return told

    def _save(self) -> None:
        self._record.save()
        arrays = {name: np.concatenate(parts) for name, parts in self._latencies.items()}
        if arrays:
            self._record.save_arrays("latency", **arrays)

    def _tell(self, round_: int, text: str) -> None:
        self._say(f"{time.perf_counter() - self._began:7.1f} s  round {round_}: {text}")


def run(
    stream: Stream,
    names: Sequence[str],
    work: Path,
    terms: Terms,
    record: Record,
    say: Callable[[str], None],
) -> None:
    """Run all arms in `work`, which is emptied before and after."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        Contest(stream, names, work, terms, record, say).run()
    finally:
        shutil.rmtree(work, ignore_errors=True)
