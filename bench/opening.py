"""From nothing to the first answer: ``python -m bench.opening --dataset sift --out FOLDER``.

Each trial is a fresh process that starts Python, imports, opens the store, asks for the collection
and answers two queries. *Warm*: the store's pages and the compiled kernels are in the page cache.
*Pages on disk*: the store's files and the compiled kernels were put out of it. *First ever*: no
compiled kernels on the machine, so the first query compiles what it needs, and ``vecstore warmup``
all there is. hnswlib loads its file and answers, for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.adapters import Task, missing_modules
from bench.adapters.vecstore_ import COLLECTION
from bench.channel import REPOSITORY, BenchError
from bench.contender import Contender
from bench.data import Data, cache_root, load
from bench.limits import drop_cache
from bench.machine import machine_facts, without_places
from bench.results import store_report
from bench.tables import table
from vecstore.kernels.cache import cache_folder

LIMIT_S = 0.5
"""What opening and the first query may take together, after the imports."""

_CLOCK = """
import sys, time
marks = [("python", time.monotonic())]
def mark(name): marks.append((name, time.monotonic()))
"""
_TELL = """
import json
print(json.dumps(marks))
"""
_VECSTORE = f"""{_CLOCK}
import numpy
query = numpy.load(sys.argv[2])
mark("numpy")
import vecstore
mark("library")
import vecstore.store
mark("the rest of it")
store = vecstore.open(sys.argv[1], mode="r")
mark("open")
docs = store.collection("{COLLECTION}")
mark("collection")
assert len(docs.query(query[0], k=10)) == 10
mark("first query")
docs.query(query[1], k=10)
mark("second query")
{_TELL}"""
_HNSWLIB = f"""{_CLOCK}
import numpy
query = numpy.load(sys.argv[2])
mark("numpy")
import hnswlib
mark("library")
index = hnswlib.Index(space=sys.argv[3], dim=query.shape[1])
index.load_index(sys.argv[1])
index.set_num_threads(1)
mark("open")
index.set_ef(64)
index.knn_query(query[0], k=10)
mark("first query")
index.knn_query(query[1], k=10)
mark("second query")
{_TELL}"""
_WARMUP = f"""{_CLOCK}
from vecstore.warm import warmup
mark("library")
warmup()
mark("warmup")
{_TELL}"""

Seconds = dict[str, float]
WARMUP = "warmup"


def trial(script: str, arguments: Sequence[str], cache: Path | None = None) -> Seconds:
    """Run one process; seconds of each of its steps, the start of Python first.

    Parameters
    ----------
    cache : Path or None
        Where vecstore keeps compiled kernels, instead of the user's folder.

    Raises
    ------
    BenchError
        The process failed; the message quotes it.
    """
    path = os.pathsep.join(p for p in (str(REPOSITORY), os.environ.get("PYTHONPATH")) if p)
    own = {"VECSTORE_CACHE": str(cache)} if cache else {}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": path, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"A trial ended with status {done.returncode}: {done.stderr[-1500:]}")
    marks = json.loads(done.stdout.splitlines()[-1])
    ends = [began, *(at for _, at in marks)]
    return {name: ends[i + 1] - ends[i] for i, (name, _) in enumerate(marks)}


def trials(
    script: str, arguments: Sequence[str], repeats: int, before: Callable[[], None] | None = None
) -> list[Seconds]:
    """Several; the first one, which fills caches, is not counted unless they are emptied."""
    found = []
    for repeat in range(-1, repeats):
        if before is not None:
            before()
        taken = trial(script, arguments)
        if repeat >= 0:
            found.append(taken)
    return found


def built(data: Data, name: str, work: Path) -> Path:
    """Folder of an adapter's index of the data, made if it is not there."""
    rows, dim = (int(n) for n in data.base.shape)
    task = Task(data.metric, dim, rows, 10, work / data.name / name, 1, (0.95,))
    Contender(name, task).build(data.source(), reuse=True)
    return task.workdir


def measure(data: Data, work: Path, repeats: int) -> dict[str, list[Seconds]]:
    """Seconds of each step of each trial, by case."""
    found: dict[str, list[Seconds]] = {}
    store = built(data, "vecstore", work) / "store"
    with tempfile.TemporaryDirectory() as folder:
        queries = Path(folder) / "queries.npy"
        np.save(queries, data.queries[:2])
        asked = [str(store), str(queries)]
        found["warm"] = trials(_VECSTORE, asked, repeats)

        def dropped() -> None:
            drop_cache(store)
            drop_cache(cache_folder())

        found["pages on disk"] = trials(_VECSTORE, asked, repeats, dropped)
        found["first ever"] = [trial(_VECSTORE, asked, Path(folder) / "kernels")]
        found[WARMUP] = [trial(_WARMUP, [], Path(folder) / "kernels-of-warmup")]
        if not missing_modules("hnswlib"):
            index = built(data, "hnswlib", work) / "index.hnsw"
            of_graph = [str(index), str(queries), data.metric]
            found["hnswlib, warm"] = trials(_HNSWLIB, of_graph, repeats)
            found["hnswlib, pages on disk"] = trials(
                _HNSWLIB, of_graph, repeats, lambda: drop_cache(index.parent)
            )
    return found


def after_imports(seconds: Seconds) -> float:
    """Opening and the first answer."""
    return sum(seconds.get(step, 0.0) for step in ("open", "collection", "first query"))


def report(machine: dict[str, Any], facts: dict[str, Any], cases: dict[str, list[Seconds]]) -> str:
    """Markdown for people."""
    timed = {case: taken for case, taken in cases.items() if case != WARMUP}
    steps = list(dict.fromkeys(step for taken in timed.values() for step in taken[0]))
    head = ["ms", *steps, "open to first answer", "at most", "process to first answer"]
    rows = []
    for case, taken in timed.items():
        row = [case]
        for step in steps:
            values = [one[step] * 1e3 for one in taken if step in one]
            row.append(f"{np.median(values):,.1f}" if values else "")
        opened = [after_imports(one) * 1e3 for one in taken]
        whole = [sum(v for k, v in one.items() if k != "second query") * 1e3 for one in taken]
        row += [f"{np.median(opened):,.1f}", f"{max(opened):,.1f}", f"{np.median(whole):,.0f}"]
        rows.append(row)
    dirty = " with uncommitted changes" if machine["git_dirty"] else ""
    return f"""# From nothing to the first answer

{facts["dataset"]}: {facts["rows"]:,} × {facts["dim"]}, {facts["metric"]}. Medians over
{facts["repeats"]} processes; milliseconds of each step. *At most* is the slowest process.
The aim is {LIMIT_S} s from opening to the first answer, after the imports, with compiled kernels
on the machine.

{table(head, rows)}

*Library* is the import of its name, *the rest of it* what vecstore imports when a store is first
opened (Numba above all). `vecstore warmup` compiles all kernels in
{cases[WARMUP][0]["warmup"]:.0f} s.

{machine["cpu"]}, {machine["cores"]} cores, {machine["date"][:10]}, commit
{machine["git_commit"][:12]}{dirty}: `{machine["command"]}`.
The load average was {machine["load"][0]:.1f} at the start and {machine["load"][1]:.1f} at the end.
"""


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench.opening", description=__doc__)
    parser.add_argument("--dataset", default="sift")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--work", type=Path, default=cache_root().parent / "bench")
    parser.add_argument("--out", type=Path, help="folder for opening.json and opening.md")
    given = parser.parse_args(arguments)
    machine = machine_facts(without_places(f"python -m bench.opening {shlex.join(arguments)}"))
    before = os.getloadavg()[0]
    data = load(given.dataset)
    cases = measure(data, given.work, given.repeats)
    machine["load"] = [before, os.getloadavg()[0]]
    facts = {
        "dataset": data.name,
        "rows": int(data.base.shape[0]),
        "dim": int(data.base.shape[1]),
        "metric": data.metric,
        "repeats": given.repeats,
    }
    text = report(machine, facts, cases)
    print(text, end="")
    if given.out is not None:
        whole = {"machine": machine, "facts": facts, "seconds": cases}
        store_report(given.out, "opening", whole, text)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BenchError as error:
        raise SystemExit(str(error)) from error
