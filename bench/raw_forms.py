"""What each raw form costs and keeps: ``python -m bench.raw_forms wordnet sift577k glove``.

One collection per form and set, on this machine, one thread for everything that is timed.  The
table goes to standard output, all figures as JSON to ``--out``.
"""

from __future__ import annotations

import argparse
import json
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
BATCHES = 41
BLOCK = 50_000
RECALLS = (0.95, 1.0)


def relative_errors(docs: vecstore.Collection, base: NDArray[np.float32]) -> NDArray[np.float64]:
    """Length of the error of each row, as a share of the row's length."""
    shares = []
    for start in range(0, len(base), BLOCK):
        rows = np.asarray(base[start : start + BLOCK], np.float64)
        back = docs.vectors(np.arange(start, start + len(rows)))
        shares.append(np.linalg.norm(back - rows, axis=1) / np.linalg.norm(rows, axis=1))
    return np.concatenate(shares)


def rows_per_second(docs: vecstore.Collection, rows: int) -> float:
    """Median rate of ``vectors`` over batches of random ids, all pages in memory."""
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(BATCHES):
        ids = rng.integers(0, rows, BATCH)
        start = time.perf_counter_ns()
        docs.vectors(ids)
        seconds.append((time.perf_counter_ns() - start) / 1e9)
    return float(BATCH / np.median(seconds))


def queries(docs: vecstore.Collection, data: Data, target: float) -> dict[str, float]:
    """Recall against the rows as given, and queries a second: the best of three passes."""
    asked = data.queries if target < 1 else data.queries[:200]
    best = np.inf
    for _ in range(3):
        start = time.perf_counter_ns()
        hits = [docs.query(vector, k=K, recall=target) for vector in asked]
        best = min(best, (time.perf_counter_ns() - start) / 1e9)
    ids = np.array([[hit.id for hit in found] for found in hits])
    nearest = data.neighbors[: len(asked), :K]
    kth = true_distances(data.base, asked, nearest, data.metric)[:, -1]
    found = found_mask(data.base, asked, ids, kth, data.metric)
    return {"recall": recall(found, K), "per_second": len(asked) / best}


def measure(data: Data, form: str, folder: Path) -> dict[str, Any]:
    """Build a collection in one form, and look at it."""
    rows, dim = data.base.shape
    with vecstore.open(folder / f"{data.name}-{form}") as store:
        docs = store.collection("docs", dim=dim, metric=data.metric, raw=form)
        docs.load(data.base)
        errors = relative_errors(docs, data.base)
        return {
            "dataset": data.name,
            "rows": rows,
            "dim": dim,
            "metric": data.metric,
            "form": form,
            "row_bytes": FORMS[form].row_bytes(dim),
            "disk_bytes": store.stats()["disk_bytes"],
            "error_mean": float(errors.mean()),
            "error_worst": float(errors.max()),
            "vectors_per_second": rows_per_second(docs, rows),
            "queries": {f"{target:g}": queries(docs, data, target) for target in RECALLS},
        }


def table(measured: list[dict[str, Any]]) -> str:
    """Markdown of all figures."""
    lines = [
        "| set | raw | bytes a row | store, MB | error, mean | worst | recall@10, exact scan "
        "| asked 0.95: recall | queries/s | vectors/s |",
        "| --- | --- " + "| ---: " * 8 + "|",
    ]
    for m in measured:
        near, exact = m["queries"]["0.95"], m["queries"]["1"]
        lines.append(
            f"| {m['dataset']} | {m['form']} | {m['row_bytes']} | {m['disk_bytes'] / 1e6:.0f} "
            f"| {m['error_mean']:.2g} | {m['error_worst']:.2g} | {exact['recall']:.4f} "
            f"| {near['recall']:.4f} | {near['per_second']:,.0f} | {m['vectors_per_second']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the sets named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.raw_forms", description=__doc__)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--out", type=Path, help="folder for raw_forms.json")
    given = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.datasets:
            data = load(name)
            measured += [measure(data, form, Path(folder)) for form in FORMS]
    print(table(measured), end="")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        command = without_places(f"python -m bench.raw_forms {shlex.join(sys.argv[1:])}")
        report = {"machine": machine_facts(command), "measured": measured}
        (given.out / "raw_forms.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
