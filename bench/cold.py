"""Larger than memory: every adapter under the same limit, its pages on disk.

A query process lives in a control group whose memory limit, anonymous memory and page cache
together, is a quarter of the float32 rows or less. Before each pass the group's cache is
emptied; queries that are not reported fill it as far as the limit lets them, then the others
are timed. The same first queries choose the points to measure: those around the recall wanted.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import metrics
from bench.channel import BenchError
from bench.contender import Contender
from bench.data import load
from bench.device import FILE_BYTES, measure_device
from bench.limits import read_ahead, read_ahead_kb
from bench.results import Pair, Run
from bench.run import DEFAULT_RECALLS, DatasetRun, Say, Settings, begin

#: Points whose recall lies in this range around the one wanted are tried.
BELOW, ABOVE = 0.08, 0.045
TRIED_QUERIES = 50
#: Of those tried and not beaten, the nearest to the recall wanted on each side are measured.
EACH_SIDE = 2
DATA_PER_MEMORY = 4.0
#: Of the order of queries.
ORDER_SEED = 1
#: Settings that must be the same where results are added to others.
SAME = (
    *("recall", "recalls", "queries", "filling", "k", "repeats", "data_per_memory"),
    *("limit_bytes", "pass_s", "read_ahead_kb"),
)
#: At least so many queries of a pass, however long they take.
QUERIES_MIN = 100


@dataclass(frozen=True)
class ColdSettings:
    """What the command line asks for.

    Attributes
    ----------
    queries : int
        Reported, after those that fill the cache.
    filling : int
        Queries of each pass that fill the cache and are not reported.
    pass_s : float
        What a pass may take; an adapter that is slower is asked fewer queries of both kinds.
    data_per_memory : float
        Bytes of float32 rows by bytes of memory, unless `limit_bytes` says how much.
    read_ahead_kb : int or None
        What the kernel reads around a fault in a plain map; None leaves it as it is.
    """

    datasets: tuple[str, ...]
    adapters: tuple[str, ...]
    recall: float = 0.95
    recalls: tuple[float, ...] = DEFAULT_RECALLS
    queries: int = 800
    filling: int = 200
    k: int = 10
    repeats: int = 3
    reuse: tuple[str, ...] = ()
    data_per_memory: float = DATA_PER_MEMORY
    limit_bytes: int | None = None
    pass_s: float = 60.0
    read_ahead_kb: int | None = None
    go_on: bool = False


def around(target: float, recalls: Sequence[float], seconds: Sequence[float]) -> list[int]:
    """The unbeaten points nearest to a recall, up to `EACH_SIDE` on each side of it.

    Returns
    -------
    list of int
        By ascending recall; never empty.
    """
    kept = metrics.frontier(recalls, [-one for one in seconds])
    below = [i for i in kept if recalls[i] < target][-EACH_SIDE:]
    above = [i for i in kept if recalls[i] >= target][:EACH_SIDE]
    return below + above


def affordable(filling: int, queries: int, mean_us: float, pass_s: float) -> tuple[int, int]:
    """Queries that fill and that are reported, in the same proportion, so that a pass ends."""
    whole = filling + queries
    count = max(min(whole, QUERIES_MIN), min(whole, int(pass_s * 1e6 / mean_us)))
    fewer = count * filling // whole
    return fewer, count - fewer


class ColdRun(DatasetRun):
    """One adapter on one dataset, alone: two would share the disk."""

    def __init__(
        self, name: str, adapter: str, settings: ColdSettings, work: Path, say: Say
    ) -> None:
        self._cold = settings
        data = load(name)
        every = Settings(
            datasets=(name,),
            adapters=(adapter,),
            recalls=settings.recalls,
            queries=settings.filling + settings.queries,
            k=settings.k,
            repeats=settings.repeats,
            batch=False,
            reuse=settings.reuse,
        )
        super().__init__(data, every, (adapter,), work, say)
        # held-out queries may stand by origin, and then the first are not like the others
        order = np.random.default_rng(ORDER_SEED).permutation(len(self._queries))
        self._queries = np.ascontiguousarray(self._queries[order])
        self._kth = self._kth[order]
        if len(self._queries) <= settings.filling:
            raise BenchError(
                f"{name!r} has {len(self._queries)} queries, of which {settings.filling} fill the "
                "cache: ask for fewer of these."
            )
        rows, dim = (int(n) for n in data.base.shape)
        self.data_bytes = 4 * rows * dim
        self.limit_bytes = settings.limit_bytes or int(self.data_bytes / settings.data_per_memory)
        self.facts = {
            "rows": rows,
            "dim": dim,
            "metric": data.metric,
            "queries": len(self._queries) - settings.filling,
            "data_bytes": self.data_bytes,
            "limit_bytes": self.limit_bytes,
        }

    def run(self) -> list[Pair]:
        """Build, choose points, measure."""
        (contender,) = self._contenders
        reuse = bool({contender.name, "all"} & set(self._settings.reuse))
        self._say(f"{self._data.name}: building {contender.name}")
        try:
            self._attempt(contender, lambda c: c.build(self._data.source(), reuse))
            for step in (self._choose, self._try, self._measure):
                if contender.record["status"] == "ok":
                    self._attempt(contender, step)
        finally:
            contender.stop()
        arrays = self._arrays.get(contender.name, {})
        return [Pair(self._data.name, contender.name, contender.record, arrays)]

    def _filling_recall(self, ids: Any) -> float:
        end = self._cold.filling
        base, asked = self._data.base, self._queries[:end]
        found = metrics.found_mask(base, asked, ids, self._kth[:end], self._data.metric)
        return metrics.recall(found, self._wanted)

    def _choose(self, contender: Contender) -> None:
        """Warm and without a limit: what recall each point of the sweep has."""
        self._say(f"{self._data.name}: recall of {contender.name}'s points")
        contender.sweep = contender.open(self._queries, 1)["points"]
        recalls = [
            self._filling_recall(
                contender.ask("singles", params=params, end=self._cold.filling)["ids"]
            )
            for params in contender.sweep
        ]
        contender.stop()
        target = self._cold.recall
        inside = [i for i, r in enumerate(recalls) if target - BELOW <= r <= target + ABOVE]
        if not any(recalls[i] >= target for i in inside):
            reached = [i for i in range(len(recalls)) if recalls[i] >= target]
            inside += sorted(reached, key=recalls.__getitem__)[:EACH_SIDE]
        nearest = min(range(len(recalls)), key=lambda i: abs(recalls[i] - target))
        inside = inside or [nearest]
        contender.record["tried"] = [
            {"params": contender.sweep[i], "recall": recalls[i]} for i in inside
        ]

    def _open(self, contender: Contender) -> dict[str, Any]:
        opened = contender.open(self._queries, 1, self.limit_bytes)
        assert contender.group is not None
        return opened

    def _timed(
        self, contender: Contender, params: Any, first: int, end: int | None
    ) -> dict[str, Any]:
        """A pass and what the group read for it."""
        assert contender.group is not None
        before = contender.group.reads()
        answer: dict[str, Any] = contender.ask("singles", params=params, first=first, end=end)
        after = contender.group.reads()
        answer["reads"] = after.count - before.count
        answer["storage_bytes"] = after.bytes - before.bytes
        return answer

    def _try(self, contender: Contender) -> None:
        """With the limit: which of them are quickest when their pages are on disk."""
        self._say(f"{self._data.name}: trying {contender.name} cold")
        self._open(contender)
        tried = contender.record["tried"]
        for point in tried:
            assert contender.group is not None
            contender.group.empty_cache()
            answer = self._timed(contender, point["params"], 0, TRIED_QUERIES)
            point["mean_us"] = float(answer["latency_ns"].mean() / 1e3)
        contender.stop()
        recalls = [float(point["recall"]) for point in tried]
        seconds = [float(point["mean_us"]) for point in tried]
        chosen = around(self._cold.recall, recalls, seconds)
        contender.sweep = [tried[i]["params"] for i in chosen]
        contender.record["points"] = contender.sweep

    def _measure(self, contender: Contender) -> None:
        cold, count = self._cold, len(contender.sweep)
        tried = contender.record["tried"]
        mean_us = max(one["mean_us"] for one in tried if one["params"] in contender.sweep)
        reported = len(self._queries) - cold.filling
        filling, queries = affordable(cold.filling, reported, mean_us, cold.pass_s)
        self._part = slice(filling, filling + queries)
        contender.record["queries"] = {"filling": filling, "reported": queries}
        shape = (self._settings.repeats, count)
        self._arrays[contender.name] = self._empty(shape, queries) | {
            "reads": np.zeros(shape, np.int64)
        }
        for repeat in range(self._settings.repeats):
            self._say(f"{self._data.name}: {contender.name} cold, repeat {repeat + 1}")
            opened = self._open(contender)
            opened.pop("points")
            contender.record["versions"] = opened.pop("versions")
            contender.record.setdefault("open", opened)
            for point in range(count):
                assert contender.group is not None
                params = contender.sweep[point]
                contender.group.empty_cache()
                contender.ask("singles", params=params, end=filling)
                answer = self._timed(contender, params, filling, filling + queries)
                self._keep(contender.name, (repeat, point), answer)
            contender.record.update(contender.finish())
            contender.stop()

    def _found(self, ids: Any) -> Any:
        data = self._data
        asked, kth = self._queries[self._part], self._kth[self._part]
        return metrics.found_mask(data.base, asked, ids, kth, data.metric)


def run_cold(
    settings: ColdSettings,
    folder: Path,
    work: Path,
    machine: dict[str, Any],
    say: Say,
    device_bytes: int = FILE_BYTES,
) -> Run:
    """Measure every adapter on every dataset under the limit, and the disk itself.

    Parameters
    ----------
    folder : Path
        Results folder, created; written after each adapter.
    device_bytes : int
        Size of the file by which the disk is measured.
    """
    with read_ahead(work, settings.read_ahead_kb):
        return _run(settings, folder, work, machine, say, device_bytes)


def _run(
    settings: ColdSettings,
    folder: Path,
    work: Path,
    machine: dict[str, Any],
    say: Say,
    device_bytes: int,
) -> Run:
    stored = begin(settings, folder, machine, SAME)
    if "device" not in stored.settings:
        say("Measuring the disk")
        stored.settings["device"] = measure_device(work, device_bytes)
        stored.settings["device"]["read_ahead_kb"] = read_ahead_kb(work)
    for name in settings.datasets:
        measured = {pair.adapter for pair in stored.of(name) if pair.ok}
        for adapter in settings.adapters:
            if adapter in measured:
                continue
            one = ColdRun(name, adapter, settings, work, say)
            stored.datasets[name] = one.facts
            (pair,) = one.run()
            pair.record["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            pair.record["load_start"] = os.getloadavg()
            pair.record["git_commit"] = machine["git_commit"]
            stored.replace(name, [pair])
            stored.save()
    return stored
