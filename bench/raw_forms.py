"""What each raw form costs and keeps: ``python -m bench.raw_forms wordnet sift577k glove``.

One collection per form and set, on this machine, one thread for everything that is timed.  The
table goes to standard output, and with ``--out`` all figures as JSON and a report to a folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore
from bench.data import Data, load
from bench.machine import machine_facts, without_places
from bench.metrics import found_mask, recall, true_distances
from vecstore.raw_forms import FORMS

K = 10
BATCH = 10_000
BATCHES = 9
PASSES = 5
BLOCK = 50_000
TIMED = {"0.95": 1_000, "1": 100}
"""Queries that are timed, by the recall asked for."""


def relative_errors(docs: vecstore.Collection, base: NDArray[np.float32]) -> NDArray[np.float64]:
    """Length of the error of each row, as a share of the row's length."""
    shares = []
    for start in range(0, len(base), BLOCK):
        rows = np.asarray(base[start : start + BLOCK], np.float64)
        back = docs.vectors(np.arange(start, start + len(rows)))
        shares.append(np.linalg.norm(back - rows, axis=1) / np.linalg.norm(rows, axis=1))
    return np.concatenate(shares)


def seconds_per_batch(docs: vecstore.Collection, rows: int, seed: int) -> float:
    """Median time of ``vectors`` over batches of random ids, all pages in memory."""
    batches = np.random.default_rng(seed).integers(0, rows, (BATCHES, BATCH))
    seconds = []
    for ids in batches:
        start = time.perf_counter_ns()
        docs.vectors(ids)
        seconds.append((time.perf_counter_ns() - start) / 1e9)
    return float(np.median(seconds))


def recall_of(docs: vecstore.Collection, data: Data, target: float) -> float:
    """Recall against the rows as they were given."""
    ids = docs.search(data.queries, k=K, recall=target).ids
    kth = true_distances(data.base, data.queries, data.neighbors[:, :K], data.metric)[:, -1]
    return recall(found_mask(data.base, data.queries, ids, kth, data.metric), K)


def seconds_per_query(docs: vecstore.Collection, asked: NDArray[Any], target: float) -> float:
    """Mean time of one ``query`` after the other."""
    start = time.perf_counter_ns()
    for vector in asked:
        docs.query(vector, k=K, recall=target)
    return (time.perf_counter_ns() - start) / 1e9 / len(asked)


def measure(data: Data, folder: Path) -> list[dict[str, Any]]:
    """Build a collection in each form; look at them in turns, so that all meet the same machine."""
    rows, dim = data.base.shape
    measured: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        opened = {}
        for form in FORMS:
            store = stack.enter_context(vecstore.open(folder / f"{data.name}-{form}"))
            docs = opened[form] = store.collection("docs", dim=dim, metric=data.metric, raw=form)
            docs.load(data.base)
            load = os.getloadavg()[0]
            errors = relative_errors(docs, data.base)
            measured[form] = {
                "dataset": data.name,
                "rows": rows,
                "dim": dim,
                "metric": data.metric,
                "form": form,
                "row_bytes": FORMS[form].row_bytes(dim),
                "disk_bytes": store.stats()["disk_bytes"],
                "error_mean": float(errors.mean()),
                "error_worst": float(errors.max()),
                "recall": {target: recall_of(docs, data, float(target)) for target in TIMED},
                "load": [load],
                "batch_s": [],
                "query_s": {target: [] for target in TIMED},
            }
        for turn in range(PASSES):
            for form, docs in opened.items():
                figures = measured[form]
                figures["load"].append(os.getloadavg()[0])
                figures["batch_s"].append(seconds_per_batch(docs, rows, turn))
                for target, count in TIMED.items():
                    asked = data.queries[:count]
                    seconds = seconds_per_query(docs, asked, float(target))
                    figures["query_s"][target].append(seconds)
    return list(measured.values())


def table(measured: list[dict[str, Any]]) -> str:
    """Markdown of all figures; times are those of the best pass."""
    lines = [
        "| set | raw | bytes a row | store, MB | error, mean | worst | recall@10 of a scan | ms "
        "| recall@10 at 0.95 | queries/s | vectors/s |",
        "| --- | --- " + "| ---: " * 9 + "|",
    ]
    for m in measured:
        query = {target: min(seconds) for target, seconds in m["query_s"].items()}
        lines.append(
            f"| {m['dataset']} | {m['form']} | {m['row_bytes']} | {m['disk_bytes'] / 1e6:.0f} "
            f"| {m['error_mean']:.2g} | {m['error_worst']:.2g} "
            f"| {m['recall']['1']:.4f} | {query['1'] * 1e3:.1f} "
            f"| {m['recall']['0.95']:.4f} | {1 / query['0.95']:,.0f} "
            f"| {BATCH / min(m['batch_s']):,.0f} |"
        )
    return "\n".join(lines) + "\n"


def report(machine: dict[str, Any], measured: list[dict[str, Any]]) -> str:
    """Markdown for people: the table, how it was made, and on what machine."""
    loads = [load for figures in measured for load in figures["load"]]
    dirty = " with uncommitted changes" if machine["git_dirty"] else ""
    return f"""# Raw forms

{table(measured)}
*Error* is the length of what a row lost by its own length. *Recall@10* is against the rows as they
were given: of a scan of all rows (`recall=1.0`), where only the raw form decides, and of queries
that ask for 0.95. *ms* is a scan, *queries/s* are single queries at 0.95, *vectors/s* random int
ids, {BATCH:,} a call, all pages in memory; one thread, forms in turns, the best of {PASSES} passes.

{machine["cpu"]}, {machine["cores"]} cores, {machine["date"][:10]}, commit
{machine["git_commit"][:12]}{dirty}: `{machine["command"]}`.
The load average was {min(loads):.1f} to {max(loads):.1f} meanwhile. Builds take all cores, the rest
one: a load beyond that is of others, with whom the machine was shared.
"""


def main() -> None:
    """Measure the sets named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.raw_forms", description=__doc__)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--out", type=Path, help="folder for raw_forms.json and report.md")
    given = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.datasets:
            measured += measure(load(name), Path(folder))
    print(table(measured), end="")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        command = without_places(f"python -m bench.raw_forms {shlex.join(sys.argv[1:])}")
        machine = machine_facts(command)
        found = {"machine": machine, "measured": measured}
        (given.out / "raw_forms.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        (given.out / "report.md").write_text(report(machine, measured), "utf-8")


if __name__ == "__main__":
    main()
