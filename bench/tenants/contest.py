"""Arms against each other on one workload: built and queried in processes of their own, in turns.

The sweep of an arm goes up from its cheapest setting and ends when recall is saturated or a pass
takes too long; what is left is passed in turns (A, B, A, B, ...), backwards in every other repeat.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.channel import BenchError, Child, UnavailableError, thread_environment
from bench.contender import all_cores
from bench.machine import without_places
from bench.metrics import at_recall
from bench.run import turns
from bench.tenants.arms import Place
from bench.tenants.model import Asked, Workload
from bench.tenants.records import Record, plain
from bench.tenants.truth import RowsOf, Truth, hits, strangers

Say = Callable[[str], None]
MODULE = "bench.tenants.arms"
SATURATED = 0.997
TARGET = 0.95


@dataclass(frozen=True)
class Terms:
    """How arms are measured.

    Attributes
    ----------
    budget_s : float
        Seconds that one pass over a set of queries may take; settings that are slower are told
        by their share of the pass and not repeated.
    reuse : bool
        Take builds of the same workload that are there already, whatever has changed in the
        library since.
    """

    k: int = 10
    repeats: int = 5
    budget_s: float = 60.0
    reuse: bool = False


class Contestant:
    """One arm: its processes and what they reported."""

    def __init__(self, name: str, workload: Path, work: Path, terms: Terms, module: str) -> None:
        self.name = name
        self.record: dict[str, Any] = {"status": "ok", "sets": {}}
        self.points: list[dict[str, Any]] = []
        self._terms, self._module = terms, module
        self._folder = work / name
        self._data = workload
        self._log = work / f"{name}.log"
        self.child: Child | None = None

    @property
    def ok(self) -> bool:
        """Whether it still takes part."""
        return bool(self.record["status"] == "ok")

    def start(self, threads: int, folder: Path | None = None) -> Child:
        """Start a process and import the arm's libraries."""
        rayon = {"LANCE_CPU_THREADS": str(threads), "TOKIO_WORKER_THREADS": str(threads)}
        environment = thread_environment(threads) | rayon
        child = Child(self._log, environment, module="bench.tenants.worker")
        place = Place(str(self._data), str(folder or self._folder), self._terms.k, threads)
        try:
            started = child.ask("start", arm=self.name, module=self._module, place=asdict(place))
        except BenchError:
            child.close()
            raise
        self.record["versions"] = started["versions"]
        return child

    def build(self) -> None:
        """Build in one process with all cores; measure an empty library in another."""
        done = self._folder.with_suffix(".built")
        identity = json.loads(json.dumps(Workload.open(self._data).described(), default=plain))
        known = json.loads(done.read_text("utf-8")) if done.exists() else {}
        if self._terms.reuse and known.get("workload") == identity:
            self.record["build"] = {**known["build"], "reused": True}
        else:
            done.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._log.unlink(missing_ok=True)
            with self.start(all_cores()) as child:
                self.record["build"] = child.ask("build") | {"threads": all_cores()}
            text = json.dumps({"workload": identity, "build": self.record["build"]})
            done.write_text(text, "utf-8")
        spare = self._folder.with_name(f"{self.name}-runtime")
        shutil.rmtree(spare, ignore_errors=True)
        for build in (True, False):
            with self.start(1, spare) as child:
                self.record["runtime_bytes"] = child.ask("runtime", build=build)
        shutil.rmtree(spare, ignore_errors=True)

    def open(self) -> None:
        """Open in a fresh process of one thread."""
        self.child = self.start(1)
        opened = self.child.ask("open")
        self.points = opened.pop("points")
        self.record.update(opened)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Ask the open process."""
        assert self.child is not None
        return self.child.ask(command, **arguments)

    def stop(self) -> None:
        """End the open process."""
        if self.child is not None:
            self.child.close()
            self.child = None


class Contest:
    """All arms on one workload.

    Parameters
    ----------
    workload : Workload
    truths : dict
        Exact answers by set of queries.
    rows_of : callable
        Rows of a scope, to tell answers that belong to others.
    work : Path
        Where indexes are built.
    """

    def __init__(
        self,
        workload: Workload,
        truths: dict[str, Truth],
        rows_of: RowsOf,
        arms: Sequence[str],
        record: Record,
        work: Path,
        terms: Terms,
        say: Say,
        module: str = MODULE,
    ) -> None:
        self._workload, self._truths, self._rows_of = workload, truths, rows_of
        self._record, self._terms, self._say = record, terms, say
        data = work / "workload"
        shutil.rmtree(data, ignore_errors=True)
        workload.save(data)
        record.data["workload"] = workload.described()
        self._arms = [Contestant(name, data, work, terms, module) for name in arms]
        record.data["arms"] = {arm.name: arm.record for arm in self._arms}
        record.save()

    def run(self) -> None:
        """Build, open, sweep, repeat; saves after each step."""
        for arm in self._arms:
            self._say(f"building {arm.name}")
            self._attempt(arm, arm.build)
        for arm in self._arms:
            if arm.ok:
                self._attempt(arm, arm.open)
        for name, asked in self._workload.asked.items():
            if name in self._truths:
                self._set(name, asked, self._truths[name])
        for arm in self._arms:
            if arm.ok:
                self._attempt(arm, lambda a=arm: a.record.update(a.ask("finish")))  # type: ignore[misc]
            arm.stop()
        self._record.save()

    def _attempt(self, arm: Contestant, step: Callable[[], Any]) -> Any:
        try:
            found = step()
        except BenchError as error:
            status = "skipped" if isinstance(error, UnavailableError) else "failed"
            arm.record.update(status=status, reason=without_places(str(error)))
            arm.stop()
            self._say(f"{arm.name} {status}: {error}")
            found = None
        self._record.save()
        return found

    def _set(self, name: str, asked: Asked, truth: Truth) -> None:
        kept: dict[str, list[dict[str, Any]]] = {}
        for arm in self._arms:
            if arm.ok:
                self._say(f"{name}: sweeping {arm.name}")
                curve = self._attempt(arm, lambda a=arm: self._sweep(a, name, asked, truth))  # type: ignore[misc]
                kept[arm.name] = [p for p in curve or () if p["complete"] and p["repeat"]]
        latency = {
            arm: np.zeros((self._terms.repeats, len(points), len(asked.vectors)), np.uint32)
            for arm, points in kept.items()
        }
        by_name = {arm.name: arm for arm in self._arms}
        for repeat in range(self._terms.repeats):
            self._say(f"{name}: repeat {repeat + 1} of {self._terms.repeats}")
            counts = {arm: len(points) for arm, points in kept.items() if by_name[arm].ok}
            for arm_name, point in turns(counts, backwards=repeat % 2 == 1):
                arm = by_name[arm_name]
                if not arm.ok:
                    continue
                only = arm.record["sets"][name].get("only")
                found = self._attempt(
                    arm,
                    lambda a=arm, p=kept[arm_name][point], o=only: a.ask(  # type: ignore[misc]
                        "singles", asked=name, params=p["params"], budget_s=1e6, only=o
                    ),
                )
                if found is not None:
                    latency[arm_name][repeat, point] = found["latency_ns"].clip(0, 2**32 - 1)
            self._summarise(name, kept, latency)

    def _sweep(
        self, arm: Contestant, name: str, asked: Asked, truth: Truth
    ) -> list[dict[str, Any]]:
        """Go through the settings once unmeasured, twice if warm-up is worth it; keep the curve."""
        served = np.flatnonzero(arm.ask("served", asked=name))
        whole = len(served) == len(asked.vectors)
        only = None if whole else served.tolist()
        entry: dict[str, Any] = {"queries": len(served), "curve": []}
        if only is not None:
            entry["only"] = only
        arm.record["sets"][name] = entry
        if not len(served):
            return []
        curve = entry["curve"]
        first = True
        for params in arm.points:
            arguments = {"asked": name, "params": params, "only": only}
            if first:  # or the first setting pays for all
                arm.ask("singles", budget_s=self._terms.budget_s / 4, **arguments)
                first = False
            found = arm.ask("singles", budget_s=self._terms.budget_s, **arguments)
            done = served[: found["done"]]
            shares = hits(self._workload, asked, truth, found["ids"])[done]
            point: dict[str, Any] = {
                "params": params,
                "complete": bool(found["done"] == len(served)),
                "queries": int(found["done"]),
                "recall": float(shares.mean()),
                "recall_worst_tenth": float(np.sort(shares)[: max(1, len(shares) // 10)].mean()),
                "strangers": strangers(found["ids"][done], asked_at(asked, done), self._rows_of),
                "sweep_mean_us": float(found["latency_ns"][done].mean() / 1e3),
                "sweep_p50_us": float(np.median(found["latency_ns"][done]) / 1e3),
                "repeat": True,
            }
            curve.append(point)
            self._record.save()
            if point["recall"] >= SATURATED or not point["complete"]:
                break
        prune(curve)
        return list(curve)

    def _summarise(
        self, name: str, kept: dict[str, list[dict[str, Any]]], latency: dict[str, Any]
    ) -> None:
        """Medians over the repeats so far, into the record; raw latencies beside it."""
        for arm in self._arms:
            if arm.name not in kept or not arm.ok or not kept[arm.name]:
                continue
            entry = arm.record["sets"][name]
            values = latency[arm.name]
            only = entry.get("only")
            values = values if only is None else values[:, :, only]
            for place, point in enumerate(kept[arm.name]):
                point.update(figures(values[:, place]))
            entry["file"] = self._record.save_arrays(f"{name}--{arm.name}", latency_ns=values)
            entry["at_target"] = at_target(kept[arm.name])
        self._record.save()


def asked_at(asked: Asked, places: NDArray[np.int64]) -> Asked:
    """Some of the queries."""
    return Asked(asked.vectors[places], asked.tenants[places])


def prune(curve: list[dict[str, Any]]) -> None:
    """Leave out of the repeats what another setting clearly beats, and what is far below."""
    for point in curve:
        better = [
            other
            for other in curve
            if other["recall"] >= point["recall"]
            and other["sweep_p50_us"] < 0.8 * point["sweep_p50_us"]
            and other["sweep_mean_us"] < 0.8 * point["sweep_mean_us"]
        ]
        far = point["recall"] < 0.85 and any(o["recall"] < TARGET for o in curve[1:])
        point["repeat"] = not better and not far


def figures(latency: NDArray[np.uint32]) -> dict[str, float]:
    """Medians over complete repeats (repeats, queries) of p50, p99 and mean, in microseconds."""
    done = latency[latency.any(axis=1)].astype(np.float64) / 1e3
    if not len(done):
        return {}
    return {
        "repeats": len(done),
        "p50_us": float(np.median(np.percentile(done, 50, axis=1))),
        "p99_us": float(np.median(np.percentile(done, 99, axis=1))),
        "mean_us": float(np.median(done.mean(axis=1))),
        "mean_us_least": float(done.mean(axis=1).min()),
        "mean_us_most": float(done.mean(axis=1).max()),
    }


def at_target(points: list[dict[str, Any]], target: float = TARGET) -> dict[str, Any] | None:
    """The quickest point at or above the recall asked for, and the mean at just that recall.

    Quickest by the median query: settings lie so close that single slow ones would choose.
    """
    measured = [p for p in points if "mean_us" in p]
    reached = [p for p in measured if p["recall"] >= target]
    if not reached:
        return None
    speeds = [1e6 / p["mean_us"] for p in measured]
    between = at_recall([p["recall"] for p in measured], speeds, target)
    best = min(reached, key=lambda p: float(p["p50_us"]))
    at = {"kind": between.kind, "mean_us": 1e6 / between.value if between.value else None}
    return {**best, "interpolated": at}
