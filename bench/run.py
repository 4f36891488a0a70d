"""A run: build each index in a fresh process, then query all of them in turns.

Query processes of all adapters stay alive, but only one works at a time: passes alternate point
by point (A, B, A, B, …), forwards in even repeats and backwards in odd ones, so that a slow
minute of the machine hits all of them alike.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.adapters import Task
from bench.channel import BenchError, UnavailableError
from bench.contender import Contender, all_cores
from bench.data import Data, load
from bench.machine import without_places
from bench.results import Pair, Run, load_run
from bench.summary import REFERENCES

DEFAULT_RECALLS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999)
BATCH_TARGETS = (0.90, 0.95, 0.99)
#: After the warm-up a point is dropped below this recall, or when another one, at least as
#: accurate, took less than this share of its time (that much is noise in a single pass).
KEEP_RECALL_MIN = 0.6
KEEP_TIME_SHARE = 0.8
#: Above this recall only the fastest point of an adapter is worth repeating.
SATURATED_RECALL = 0.9995

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What the command line asks for.

    Attributes
    ----------
    reuse : tuple of str
        Adapters whose earlier build may be used again; ``("all",)`` for every one.
    together : int
        Adapters that take turns in one sitting, beside the references; 0 for all of them.
    go_on : bool
        Keep what the results folder has, and measure what is missing there.
    """

    datasets: tuple[str, ...]
    adapters: tuple[str, ...]
    recalls: tuple[float, ...] = DEFAULT_RECALLS
    queries: int = 1000
    k: int = 10
    repeats: int = 5
    warmups: int = 1
    batch: bool = True
    reuse: tuple[str, ...] = ()
    together: int = 0
    go_on: bool = False


def turns(points: Mapping[str, int], backwards: bool) -> list[tuple[str, int]]:
    """The order of one repeat: points of like rank side by side, adapters alternating.

    Parameters
    ----------
    points : Mapping
        Adapter name to its number of points.
    """
    order = [
        ((point + 0.5) / count, place, name, point)
        for place, (name, count) in enumerate(points.items())
        for point in range(count)
    ]
    plain = [(name, point) for _, _, name, point in sorted(order)]
    return plain[::-1] if backwards else plain


def worth_repeating(recalls: Sequence[float], seconds: Sequence[float]) -> list[int]:
    """Points worth measuring after the warm-up (see the constants); never none of them."""
    kept = []
    for i, (recall, time_s) in enumerate(zip(recalls, seconds, strict=True)):
        rivals = [(r, t) for j, (r, t) in enumerate(zip(recalls, seconds, strict=True)) if j != i]
        beaten = any(r >= recall and t < KEEP_TIME_SHARE * time_s for r, t in rivals)
        saturated = recall >= SATURATED_RECALL and any(
            r >= SATURATED_RECALL and t < time_s for r, t in rivals
        )
        if recall >= KEEP_RECALL_MIN and not beaten and not saturated:
            kept.append(i)
    return kept or [max(range(len(recalls)), key=recalls.__getitem__)]


class DatasetRun:
    """All adapters on one dataset."""

    def __init__(
        self, data: Data, settings: Settings, adapters: Sequence[str], work: Path, say: Say
    ) -> None:
        if not 1 <= settings.k <= data.neighbors.shape[1]:
            raise BenchError(
                f"k is {settings.k}; exact neighbours of {data.name!r} are known up to "
                f"{data.neighbors.shape[1]}."
            )
        self._data, self._settings, self._say = data, settings, say
        self._queries = np.ascontiguousarray(data.queries[: settings.queries], np.float32)
        nearest = data.neighbors[: len(self._queries), : settings.k]
        truth = metrics.true_distances(data.base, self._queries, nearest, data.metric)
        self._kth = np.where(np.isfinite(truth), truth, -np.inf).max(axis=1)
        self._wanted = min(settings.k, len(data.base))
        rows, dim = (int(n) for n in data.base.shape)
        self._contenders = [
            Contender(
                name,
                Task(
                    data.metric, dim, rows, settings.k, work / data.name / name, 1, settings.recalls
                ),
            )
            for name in adapters
        ]
        self._arrays: dict[str, dict[str, NDArray[Any]]] = {}

    def run(self) -> list[Pair]:
        """Build, query, batch; one pair per adapter, whatever became of it."""
        source = self._data.source()
        try:
            for contender in self._alive():
                self._say(f"{self._data.name}: building {contender.name}")
                reuse = bool({contender.name, "all"} & set(self._settings.reuse))
                self._attempt(contender, lambda c, r=reuse: c.build(source, r))
            self._singles()
            if self._settings.batch:
                for place, threads in enumerate(dict.fromkeys((1, all_cores()))):
                    self._batches(place, threads)
        finally:
            for contender in self._contenders:
                contender.stop()
        return [
            Pair(self._data.name, c.name, c.record, self._arrays.get(c.name, {}))
            for c in self._contenders
        ]

    def _alive(self) -> list[Contender]:
        return [c for c in self._contenders if c.record["status"] == "ok"]

    def _attempt(self, contender: Contender, action: Callable[..., Any]) -> Any:
        """Do something with a contender; one that fails leaves the run, the others stay."""
        try:
            return action(contender)
        except BenchError as error:
            status = "skipped" if isinstance(error, UnavailableError) else "failed"
            contender.record.update(status=status, reason=without_places(str(error)))
            contender.stop()
            self._arrays.pop(contender.name, None)
            self._say(f"{self._data.name}: {contender.name} {status}: {error}")
            return None

    def _found(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        data = self._data
        return metrics.found_mask(data.base, self._queries, ids, self._kth, data.metric)

    def _singles(self) -> None:
        settings = self._settings
        for contender in self._alive():
            opened = self._attempt(contender, lambda c: c.open(self._queries, 1))
            if opened:
                contender.sweep = opened.pop("points")
                contender.record["versions"] = opened.pop("versions")
                contender.record["open"] = opened
        for contender in self._alive():
            self._say(f"{self._data.name}: warming up {contender.name}")
            self._attempt(contender, self._warm_up)
        for repeat in range(settings.repeats):
            self._say(f"{self._data.name}: repeat {repeat + 1} of {settings.repeats}")
            counts = {c.name: len(c.sweep) for c in self._alive()}
            by_name = {c.name: c for c in self._alive()}
            for name, point in turns(counts, backwards=repeat % 2 == 1):
                if by_name[name].record["status"] == "ok":
                    self._attempt(by_name[name], lambda c, r=repeat, p=point: self._pass(c, r, p))
        for contender in self._alive():
            ended = self._attempt(contender, lambda c: c.finish())
            if ended:
                contender.record.update(ended)
            contender.stop()

    def _warm_up(self, contender: Contender) -> None:
        """Unmeasured passes over the whole sweep; they also decide which points stay."""
        recalls, seconds = [], []
        contender.ask("singles", params=contender.sweep[-1])  # or the first point pays for all
        for params in contender.sweep:
            for _ in range(max(1, self._settings.warmups)):
                answer = contender.ask("singles", params=params)
            # the median: one interruption must not cost a point its place
            seconds.append(float(np.median(answer["latency_ns"])) * len(self._queries) / 1e9)
            recalls.append(metrics.recall(self._found(answer["ids"]), self._wanted))
        kept = worth_repeating(recalls, seconds)
        contender.record["dropped"] = [
            {"params": contender.sweep[i], "recall": recalls[i], "seconds": seconds[i]}
            for i in range(len(recalls))
            if i not in kept
        ]
        contender.sweep = [contender.sweep[i] for i in kept]
        contender.record["points"] = contender.sweep
        queries, repeats = len(self._queries), self._settings.repeats
        self._arrays[contender.name] = self._empty((repeats, len(kept)), queries)

    def _empty(self, shape: tuple[int, int], queries: int) -> dict[str, NDArray[Any]]:
        """Arrays for passes of (repeats, points), as `bench.results` describes them."""
        answers = (queries, self._settings.k, shape[1])
        return {
            "latency_ns": np.zeros((*shape, queries), np.uint32),
            "ids": np.full(answers, -1, np.int32),
            "found": np.zeros(answers, np.bool_),
            "changed": np.zeros(shape, np.int32),
            **{name: np.zeros(shape) for name in ("cpu_s", "elapsed_s", "started_s")},
            **{name: np.zeros(shape, np.int64) for name in ("storage_bytes", "major_faults")},
        }

    def _pass(self, contender: Contender, repeat: int, point: int) -> None:
        self._keep(
            contender.name,
            (repeat, point),
            contender.ask("singles", params=contender.sweep[point]),
        )

    def _keep(self, name: str, at: tuple[int, int], answer: dict[str, Any]) -> None:
        """Put the answer of a pass into the arrays."""
        repeat, point = at
        arrays = self._arrays[name]
        ids = answer.pop("ids")
        arrays["latency_ns"][repeat, point] = answer.pop("latency_ns")
        for kind, value in answer.items():
            arrays[kind][repeat, point] = value
        if repeat == 0:
            arrays["ids"][:, :, point] = ids
            arrays["found"][:, :, point] = self._found(ids)
        arrays["changed"][repeat, point] = (arrays["ids"][:, :, point] != ids).any(axis=1).sum()

    def _batch_points(self, contender: Contender) -> list[int]:
        """The cheapest point at each target recall; the most accurate one if none reaches it."""
        arrays = self._arrays[contender.name]
        count = len(contender.sweep)
        recalls = [metrics.recall(arrays["found"][:, :, p], self._wanted) for p in range(count)]
        seconds = np.median(arrays["latency_ns"].sum(axis=2, dtype=np.float64), axis=0)
        chosen = []
        for target in BATCH_TARGETS:
            reached = [p for p in range(count) if recalls[p] >= target]
            best = min(reached, key=lambda p: float(seconds[p]), default=None)
            chosen.append(max(range(count), key=recalls.__getitem__) if best is None else best)
        return list(dict.fromkeys(chosen))

    def _batches(self, place: int, threads: int) -> None:
        self._say(f"{self._data.name}: batches on {threads} core(s)")
        queries, k, repeats = len(self._queries), self._settings.k, self._settings.repeats
        cores = list(dict.fromkeys((1, all_cores())))
        for contender in self._alive():
            self._attempt(contender, lambda c: c.open_batch(self._queries, threads))
        for contender in self._alive():
            chosen = self._batch_points(contender)
            points = [contender.sweep[p] for p in chosen]
            contender.record["batch"] = {"threads": cores, "points": points, "of": chosen}
            arrays = self._arrays[contender.name]
            shape = (len(cores), len(points))
            arrays.setdefault("batch_seconds", np.zeros((*shape, repeats)))
            arrays.setdefault("batch_cpu_s", np.zeros((*shape, repeats)))
            arrays.setdefault("batch_found", np.zeros((*shape, queries, k), np.bool_))
        by_name = {c.name: c for c in self._alive()}
        counts = {name: len(c.record["batch"]["points"]) for name, c in by_name.items()}
        for repeat in range(-1, repeats):  # -1 warms up
            for name, point in turns(counts, backwards=repeat % 2 == 1):
                if by_name[name].record["status"] == "ok":
                    self._attempt(
                        by_name[name],
                        lambda c, r=repeat, p=point: self._batch_pass(c, (place, p, r)),
                    )
        for contender in self._contenders:
            contender.stop()

    def _batch_pass(self, contender: Contender, at: tuple[int, int, int]) -> None:
        place, point, repeat = at
        answer = contender.ask("batch", params=contender.record["batch"]["points"][point])
        arrays = self._arrays[contender.name]
        if repeat < 0:
            arrays["batch_found"][place, point] = self._found(answer["ids"])
            return
        arrays["batch_seconds"][place, point, repeat] = answer["seconds"]
        arrays["batch_cpu_s"][place, point, repeat] = answer["cpu_s"]


def sittings(wanted: Sequence[str], measured: Sequence[str], together: int) -> list[list[str]]:
    """Which adapters take turns with each other.

    The references that are wanted take part in every sitting, so that all figures can be held
    against theirs of the same minutes.

    Parameters
    ----------
    wanted, measured : sequences of str
        Adapters asked for, and those of them that have results.
    together : int
        Adapters in one sitting beside the references; 0 for all.
    """
    references = [name for name in wanted if name in REFERENCES]
    left = [name for name in wanted if name not in measured]
    others = [name for name in left if name not in references]
    step = together or max(1, len(others))
    parts = [others[i : i + step] for i in range(0, len(others), step)]
    if not parts and left:
        parts = [[]]
    return [[name for name in wanted if name in (*references, *part)] for part in parts]


#: Settings that must be the same where results are added to others.
SAME = ("recalls", "queries", "k", "repeats", "warmups", "batch")


def begin(settings: Any, folder: Path, machine: dict[str, Any], same: Sequence[str] = SAME) -> Run:
    """The run that a folder holds, to be gone on with, or a new one.

    Parameters
    ----------
    settings : dataclass
        With a field ``go_on``.
    same : sequence of str
        Settings that must be those of what is there.

    Raises
    ------
    BenchError
        What stands there was measured in another way.
    """
    fresh = Run(folder, {**machine, "load_start": os.getloadavg()}, asdict(settings))
    if not settings.go_on or not (folder / "run.json").exists():
        return fresh
    stored = load_run(folder)
    for name in same:
        mine, theirs = fresh.settings[name], stored.settings[name]
        if (list(mine) if isinstance(mine, tuple) else mine) != theirs:
            raise BenchError(
                f"{folder.name} was measured with {name} {theirs}, now it is {mine}: "
                "ask for the same, or for another folder."
            )
    return stored


def run(settings: Settings, folder: Path, work: Path, machine: dict[str, Any], say: Say) -> Run:
    """Measure every adapter on every dataset and store the raw results.

    Parameters
    ----------
    folder : Path
        Results folder, created; written after each sitting.
    work : Path
        Where indexes are built, one folder per (dataset, adapter); kept for ``reuse``.
    machine : dict
        From `bench.machine.machine_facts`.
    say : callable
        Receives a line per step.
    """
    stored = begin(settings, folder, machine)
    for name in settings.datasets:
        data = load(name)
        stored.datasets[name] = {
            "rows": int(data.base.shape[0]),
            "dim": int(data.base.shape[1]),
            "metric": data.metric,
            "queries": min(settings.queries, len(data.queries)),
        }
        measured = [pair.adapter for pair in stored.pairs if pair.dataset == name and pair.ok]
        built: set[str] = set(measured) & set(REFERENCES)
        for adapters in sittings(settings.adapters, measured, settings.together):
            here = replace(settings, reuse=(*settings.reuse, *built))
            number = 1 + max((p.record["sitting"] for p in stored.of(name)), default=-1)
            facts = {
                "sitting": number,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "load_start": os.getloadavg(),
                "git_commit": machine["git_commit"],
            }
            pairs = DatasetRun(data, here, adapters, work, say).run()
            for pair in pairs:
                pair.record.update(facts)
            stored.replace(name, pairs)
            stored.save()
            built |= set(adapters) & set(REFERENCES)
    return stored
