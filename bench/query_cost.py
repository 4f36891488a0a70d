"""What one query costs beside its kernel: ``python -m bench.query_cost sift577k wordnet``.

Tenants of every shape, a collection without tenants, and filters by selectivity; one thread, one
query after the other.  "Kernel" is the time within the compiled search, measured from Python, so
that all the rest is what a caller pays for being a caller.  A tenant is "idle" when nothing of it
is in this process but the maps.  ``--out`` takes all times as they were measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore
from bench.data import Data, load
from bench.machine import machine_facts, without_places
from vecstore import search

I64 = NDArray[np.int64]
SIZES = (10, 100, 1_000, 5_000, 20_000)
EACH = 4
"""Tenants of each size."""
SHARES = (0.0001, 0.001, 0.01, 0.1, 0.5)
QUERIES = 200
PASSES = 7
TOP = 1_000_000
COLLECTIONS = ("one", "many")


class Clock:
    """Times calls, and what of each passes within the kernel."""

    def __init__(self) -> None:
        self._inner: Callable[..., Any] = vars(search)["search_many"]
        self._kernel = 0

    def __enter__(self) -> Clock:
        """Begin to look at the kernel."""
        vars(search)["search_many"] = self._timed
        return self

    def __exit__(self, *error: object) -> None:
        """Let it alone."""
        vars(search)["search_many"] = self._inner

    def _timed(self, *arguments: Any) -> Any:
        start = time.perf_counter_ns()
        found = self._inner(*arguments)
        self._kernel += time.perf_counter_ns() - start
        return found

    def time(
        self, ask: Callable[[int], Any], count: int, before: Callable[[], None] | None = None
    ) -> I64:
        """Passes over `count` calls: int64 (passes, count, 2), ns of the call and of the kernel."""
        taken = np.zeros((PASSES, count, 2), np.int64)
        for turn, i in itertools.product(range(PASSES), range(count)):
            if before is not None:
                before()
            self._kernel = 0
            start = time.perf_counter_ns()
            ask(i)
            taken[turn, i] = time.perf_counter_ns() - start, self._kernel
        return taken


def fill(store: vecstore.Store, data: Data) -> None:
    """A collection without tenants, with a number in its metadata, and one with tenants."""
    one, many = (
        store.collection(name, data.base.shape[1], data.metric, tenants=name == "many")
        for name in COLLECTIONS
    )
    rows = np.asarray(data.base[: EACH * sum(SIZES)], np.float32)
    numbers = np.random.default_rng(1).permutation(len(rows)) * (TOP / len(rows))
    one.load(rows, metadata=[{"a": number} for number in numbers.tolist()])
    names = [f"{size}-{i}" for size in SIZES for i in range(EACH) for _ in range(size)]
    order = np.random.default_rng(2).permutation(len(rows))[: len(names)]
    many.load(rows[order], tenants=names[: len(order)])


def forget(docs: vecstore.Collection, views: bool, filters: bool) -> Callable[[], None]:
    """A call that forgets what the process keeps of tenants, or of filters."""
    reader = docs._core.reader

    def forgotten() -> None:
        snapshot = reader._last
        assert snapshot is not None
        if views:
            snapshot.tenants.clear()
            snapshot.extents.indexes.clear()
        if filters:
            for view in snapshot.tenants.values():
                view.plans.clear()
                view.matches.clear()

    return forgotten


def measure(data: Data, store: vecstore.Store) -> dict[str, I64]:
    """Times by case."""
    one, many = (store.collection(name) for name in COLLECTIONS)
    asked = [np.ascontiguousarray(row, np.float32) for row in data.queries[:QUERIES]]
    n = len(asked)
    found: dict[str, I64] = {}
    with Clock() as clock:
        clock.time(lambda i: one.query(asked[i]), n)
        found["no tenants"] = clock.time(lambda i: one.query(asked[i], include=()), n)
        found["no tenants, metadata"] = clock.time(lambda i: one.query(asked[i]), n)
        stored = [size for size in SIZES if len(many.tenant(f"{size}-0")) == size]
        for size in stored:
            names = [f"{size}-{i % EACH}" for i in range(n)]
            whose = [name for name in names if len(many.tenant(name))]

            def ask(i: int, names: list[str] = whose) -> Any:
                return many.tenant(names[i % len(names)]).query(asked[i])

            found[f"tenant of {size:,}"] = clock.time(ask, n)
            found[f"tenant of {size:,}, idle"] = clock.time(ask, n, forget(many, True, False))
        for share in SHARES:
            where = {"a": {"$lt": share * TOP}}

            def filtered(i: int, where: Any = where) -> Any:
                return one.query(asked[i], where=where, include=())

            found[f"filter of {share:.2%}"] = clock.time(filtered, n)
            found[f"filter of {share:.2%}, new"] = clock.time(filtered, n, forget(one, False, True))
    return found


def row(name: str, case: str, taken: I64) -> str:
    """One line of the table, from the medians of each query over the passes."""
    whole, kernel = (np.median(taken[..., part], axis=0) / 1e3 for part in (0, 1))
    least = np.median(taken[..., 0].min(axis=0) - taken[..., 1].min(axis=0)) / 1e3
    figures = (np.median(whole), np.median(kernel), np.median(whole - kernel), least)
    return f"| {name} | {case} | " + " | ".join(f"{value:.1f}" for value in figures) + " |"


def table(measured: dict[str, dict[str, I64]]) -> str:
    """Markdown of all cases."""
    lines = [
        "| set | case | query, µs | kernel | the rest | the rest at its best |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [row(name, *case) for name, cases in measured.items() for case in cases.items()]
    return "\n".join(lines) + "\n"


def report(machine: dict[str, Any], measured: dict[str, dict[str, I64]]) -> str:
    """Markdown for people: the table, how it was made, and on what machine."""
    loads = machine["load"]
    dirty = " with uncommitted changes" if machine["git_dirty"] else ""
    return f"""# What one query costs beside its kernel

{table(measured)}
k = 10, one thread; medians over the queries of each query's median over {PASSES} passes, and of its
least times in the last column. *Idle*: the process keeps nothing of the tenant but the maps. *New*:
a filter that was never asked.

{machine["cpu"]}, {machine["cores"]} cores, {machine["date"][:10]}, commit
{machine["git_commit"][:12]}{dirty}: `{machine["command"]}`.
The load average was {loads[0]:.1f} at the start and {loads[1]:.1f} at the end; this takes one core.
"""


def main(arguments: list[str]) -> None:
    """Measure the sets named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.query_cost", description=__doc__)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--out", type=Path, help="folder for query_cost.npz, .json and report.md")
    given = parser.parse_args(arguments)
    machine = machine_facts(without_places(f"python -m bench.query_cost {shlex.join(arguments)}"))
    measured: dict[str, dict[str, I64]] = {}
    before = os.getloadavg()[0]
    for name in given.datasets:
        data = load(name)
        with tempfile.TemporaryDirectory() as folder:
            with vecstore.open(folder) as store:
                fill(store, data)
            with vecstore.open(folder, mode="r") as store:
                measured[name] = measure(data, store)
    machine["load"] = [before, os.getloadavg()[0]]
    print(table(measured), end="")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            f"{name}: {case}": taken
            for name, cases in measured.items()
            for case, taken in cases.items()
        }
        np.savez_compressed(given.out / "query_cost.npz", **arrays)
        (given.out / "query_cost.json").write_text(json.dumps(machine, indent=1) + "\n", "utf-8")
        (given.out / "report.md").write_text(report(machine, measured), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
