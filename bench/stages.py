"""Where a query's time goes: ``python -m bench.stages sift577k wordnet --recall 0.9,0.95,0.99``.

The engine's own search kernel is compiled once more with a clock around its stages. Nothing is
copied: each function is built from the engine's, with the names of what it calls pointing to
timed ones, so this cannot measure anything but today's code. The clock is the processor's cycle
counter, read twice for each stage or posting; what that costs shows in the last column, where the
kernel without clocks stands. *Python* is the public call less its kernel.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types as numba_types
from numba.extending import intrinsic
from numpy.typing import NDArray

import vecstore
from bench.adapters.vecstore_ import COLLECTION
from bench.channel import BenchError
from bench.data import Data, cache_root, load
from bench.machine import machine_facts, without_places
from bench.opening import built
from bench.results import store_report
from bench.tables import table
from vecstore import search
from vecstore.kernels import search as kernel_search
from vecstore.kernels.cache import FAST_MATH
from vecstore.kernels.fresh import scan_fresh
from vecstore.kernels.intrinsics import load_i64, store_i64
from vecstore.kernels.query import make_query, prepare
from vecstore.kernels.route import route
from vecstore.kernels.rows import rerank
from vecstore.kernels.scan import refine_pending, rerank_last, scan_posting, seed

I64 = NDArray[np.int64]
STAGES = ("prepare", "route", "prune", "seed", "scan", "refine", "rerank")
#: Stage of each function; what one calls that has a stage of its own is not counted twice.
TIMED = {
    "prepare": "prepare",
    "make_query": "prepare",
    "route": "route",
    "_look_ahead": "prune",
    "seed": "seed",
    "scan_posting": "scan",
    "scan_fresh": "scan",
    "refine_pending": "refine",
    "rerank": "rerank",
    "rerank_last": "rerank",
}
QUERIES, PASSES = 500, 7
_NESTED = len(STAGES)
#: Cycles of each stage, and of what is nested in the one under way.
_cells = np.zeros(len(STAGES) + 1, np.int64)
_CELLS = int(_cells.ctypes.data)


@intrinsic  # type: ignore[untyped-decorator]
def _cycles(_: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", (), kind), ())

    return numba_types.int64(), generate


def _compiled(function: Callable[..., Any]) -> Any:
    options = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}
    return numba.njit(**options, _nrt=False)(function)


def _rebuilt(kernel: Any, others: Mapping[str, Any]) -> Any:
    """A kernel that calls others under the names it knows.

    Raises
    ------
    BenchError
        It does not know one of the names: the engine has changed.
    """
    function = kernel.py_func
    unknown = sorted(set(others) - set(function.__code__.co_names))
    if unknown:
        raise BenchError(f"{function.__name__} does not call {', '.join(unknown)} any more.")
    scope = {**function.__globals__, **others}
    return _compiled(types.FunctionType(function.__code__, scope, function.__name__))


def _timed(kernel: Any, name: str) -> Any:
    """A kernel with a clock around it, which adds to the cell of its stage."""
    cell = 8 * STAGES.index(TIMED[name])
    nested = 8 * _NESTED

    def clocked(*arguments):  # type: ignore[no-untyped-def]
        outside = load_i64(_CELLS + nested, 0)
        store_i64(_CELLS + nested, 0, np.int64(0))
        began = _cycles()
        result = kernel(*arguments)
        taken = _cycles() - began
        inside = load_i64(_CELLS + nested, 0)
        store_i64(_CELLS + cell, 0, load_i64(_CELLS + cell, 0) + taken - inside)
        store_i64(_CELLS + nested, 0, outside + taken)
        return result

    return _compiled(clocked)


@cache
def instrumented() -> Any:
    """The engine's search kernel with clocks: same arguments, same answers."""
    ranked = _timed(rerank, "rerank")
    refined = _timed(refine_pending, "refine_pending")
    closer = {"rerank": ranked, "refine_pending": refined}
    ahead = vars(kernel_search)["_look_ahead"]
    inner = {
        "make_query": _timed(make_query, "make_query"),
        "route": _timed(route, "route"),
        "_look_ahead": _timed(ahead, "_look_ahead"),
        "seed": _timed(_rebuilt(seed, closer), "seed"),
        "scan_posting": _timed(_rebuilt(scan_posting, closer), "scan_posting"),
        "refine_pending": refined,
        "rerank": ranked,
        "rerank_last": _timed(rerank_last, "rerank_last"),
    }
    whole = {
        "_search_index": _rebuilt(vars(kernel_search)["_search_index"], inner),
        "prepare": _timed(prepare, "prepare"),
        "scan_fresh": _timed(scan_fresh, "scan_fresh"),
    }
    return _rebuilt(kernel_search.search_many, whole)


class Kernel:
    """Stands in for the engine's kernel while it is timed from Python."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.ns = 0

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter_ns()
        found = self._function(*arguments)
        self.ns += time.perf_counter_ns() - began
        return found


def pass_over(ask: Callable[[int], Any], count: int, function: Any) -> I64:
    """Ask once through a kernel: int64 (count, 2 + stages): call ns, kernel ns, cycles."""
    taken = np.zeros((count, 2 + len(STAGES)), np.int64)
    kernel, original = Kernel(function), vars(search)["search_many"]
    vars(search)["search_many"] = kernel
    try:
        for i in range(count):
            kernel.ns = 0
            _cells[:] = 0
            began = time.perf_counter_ns()
            ask(i)
            taken[i, 0] = time.perf_counter_ns() - began
            taken[i, 1] = kernel.ns
            taken[i, 2:] = _cells[: len(STAGES)]
    finally:
        vars(search)["search_many"] = original
    return taken


def cycles_per_ns() -> float:
    """Rate of the cycle counter."""

    @_compiled
    def now() -> int:
        return int(_cycles())

    now()
    began, cycles = time.perf_counter_ns(), now()
    time.sleep(0.2)
    return float(now() - cycles) / (time.perf_counter_ns() - began)


def measure(data: Data, folder: Path, recalls: Sequence[float], clocked: Any) -> dict[str, Any]:
    """By recall: passes with clocks and without, in turns, and what was counted."""
    asked = [np.ascontiguousarray(row, np.float32) for row in data.queries[:QUERIES]]
    plain = vars(search)["search_many"]
    found: dict[str, Any] = {}
    with vecstore.open(folder, mode="r") as store:
        docs = store.collection(COLLECTION)
        for recall in recalls:

            def ask(i: int, recall: float = recall) -> Any:
                return docs.query(asked[i], k=10, recall=recall)

            for function in (plain, clocked):
                pass_over(ask, len(asked), function)
            turns = [
                [pass_over(ask, len(asked), function) for function in (plain, clocked)]
                for _ in range(PASSES)
            ]
            told = [docs.explain(row, k=10, recall=recall) for row in asked]
            found[f"{recall:g}"] = {
                "plain": np.array([turn[0] for turn in turns]),
                "clocked": np.array([turn[1] for turn in turns]),
                "counted": {
                    name: float(np.mean([getattr(one, name) for one in told]))
                    for name in ("postings", "scanned", "refined", "reranked")
                },
            }
    return found


def stage_us(one: dict[str, Any], rate: float) -> dict[str, float]:
    """Means over queries of medians over passes, in µs: stages, rest of the kernel, Python."""
    clocked, plain = np.median(one["clocked"], axis=0), np.median(one["plain"], axis=0)
    stages = clocked[:, 2:].mean(axis=0) / rate / 1e3
    kernel = clocked[:, 1].mean() / 1e3
    named = dict(zip(STAGES, stages.tolist(), strict=True))
    return {
        **named,
        "rest of the kernel": float(kernel - stages.sum()),
        "Python": float((plain[:, 0] - plain[:, 1]).mean() / 1e3),
        "kernel with clocks": float(kernel),
        "kernel": float(plain[:, 1].mean() / 1e3),
        "call": float(plain[:, 0].mean() / 1e3),
    }


def report(
    machine: dict[str, Any], measured: Mapping[str, dict[str, Any]], rate: float
) -> tuple[str, dict[str, Any]]:
    """Markdown for people, and the figures in it."""
    figures: dict[str, Any] = {}
    counted, timed = [], []
    for name, by_recall in measured.items():
        for recall, one in by_recall.items():
            us, counts = stage_us(one, rate), one["counted"]
            figures.setdefault(name, {})[recall] = {"us": us, "counted": counts}
            timed.append([f"{name} at {recall}", *(f"{value:.1f}" for value in us.values())])
            counted.append([f"{name} at {recall}", *(f"{value:.1f}" for value in counts.values())])
            head, counts_head = list(us), list(counts)
    dirty = " with uncommitted changes" if machine["git_dirty"] else ""
    text = f"""# Where a query's time goes

µs of one `query(k=10)`, metadata included, one thread, pages in memory: means over {QUERIES}
held-out queries of each one's median over {PASSES} passes, with and without clocks in turns.

{table(["", *head], timed)}

*prepare*: the query rotated and laid out. *route*: super-centroids, estimates and exact distances
of centroids, the heap. *prune*: the next postings off the heap, and what leads to them. *seed*: the
first estimates that set a threshold. *scan*: codes of the postings. *refine*: further bits of the
rows that the first let through. *rerank*: exact distances. What was looked at, in the mean:

{table(["", *counts_head], counted)}

{machine["cpu"]}, {machine["cores"]} cores, {machine["date"][:10]}, commit
{machine["git_commit"][:12]}{dirty}: `{machine["command"]}`.
The load average was {machine["load"][0]:.1f} at the start and {machine["load"][1]:.1f} at the end.
"""
    return text, figures


def main(arguments: Sequence[str]) -> None:
    """Measure the sets named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--recall", default="0.9,0.95,0.99")
    parser.add_argument("--work", type=Path, default=cache_root().parent / "bench")
    parser.add_argument("--out", type=Path, help="folder for stages.json and stages.md")
    given = parser.parse_args(arguments)
    recalls = [float(word) for word in given.recall.split(",")]
    machine = machine_facts(without_places(f"python -m bench.stages {shlex.join(arguments)}"))
    before = os.getloadavg()[0]
    clocked, rate = instrumented(), cycles_per_ns()
    measured = {}
    for name in given.datasets:
        data = load(name)
        folder = built(data, "vecstore", given.work) / "store"
        measured[name] = measure(data, folder, recalls, clocked)
    machine["load"] = [before, os.getloadavg()[0]]
    text, figures = report(machine, measured, rate)
    print(text, end="")
    if given.out is not None:
        whole = {"machine": machine, "cycles_per_ns": rate, "figures": figures}
        store_report(given.out, "stages", whole, text)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        raise SystemExit(str(error)) from error
