"""The order of a study: datasets, then methods, then budgets from the largest to the smallest."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss

from bench import data
from bench.compression.measure import Table, measure, prepare
from bench.compression.methods import REFERENCE, find_method
from bench.compression.study import FILE, Study, load_study

BUDGETS = (0.5, 0.25, 0.1, 0.05, 0.03, 0.01)
_LIBRARIES = ("faiss-cpu", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes
    ----------
    datasets, methods : tuple of str
    budgets : tuple of float
        Shares of float32.
    queries, k : int
        Held-out queries, and neighbours asked for.
    seed : int
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    budgets: tuple[float, ...] = BUDGETS
    queries: int = 1000
    k: int = 10
    seed: int = 0


@contextmanager
def one_thread() -> Iterator[None]:
    """Context in which BLAS and OpenMP keep to one thread, those of faiss included."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with importlib.import_module("threadpoolctl").threadpool_limits(1):
            yield
    finally:
        faiss.omp_set_num_threads(threads)


def _method(
    name: str, table: Table, settings: Settings, log: Callable[[str], None]
) -> list[dict[str, Any]]:
    """All budgets of one method; a smaller budget that the last file fits as well is not rerun."""
    records: list[dict[str, Any]] = []
    method = find_method(name)
    last: dict[str, Any] | None = None
    for budget in sorted(settings.budgets, reverse=True):
        if last is not None and last["bytes"] <= table.budget_bytes(budget):
            record = {**last, "budget": budget}
        else:
            record = measure(method, table, budget, settings.seed)
        if record["status"] == "ok":
            last = record
            share, error = record["bytes"] / table.raw_bytes, record["relative_error"]
            log(f"{table.name} {name} {budget:.0%}: {share:.2%} true, error {error:.4f}")
        else:
            log(f"{table.name} {name} {budget:.0%}: {record['status']}")
        records.append(record)
    return records


def run(
    settings: Settings, folder: Path, machine: dict[str, Any], log: Callable[[str], None]
) -> Study:
    """Measure, and store after each method.

    Parameters
    ----------
    settings : Settings
    folder : Path
        Results folder; what another run left there is kept, or replaced where measured again.
    machine : dict
        Facts of `bench.machine.machine_facts`.
    log : callable
        Receives a line for each cell.
    """
    study = load_study(folder) if (folder / FILE).exists() else Study(folder)
    versions = {name: version(name) for name in _LIBRARIES}
    study.runs.append({"machine": machine, "settings": asdict(settings), "versions": versions})
    with one_thread():
        for dataset in settings.datasets:
            table = prepare(data.load(dataset), settings.queries, settings.k)
            rows, dim = table.shape
            study.datasets[dataset] = {
                "rows": rows,
                "dim": dim,
                "metric": table.metric,
                "queries": len(table.queries),
                "k": table.k,
            }
            if (dataset, REFERENCE.name, 1.0) not in study.records:
                study.put([measure(REFERENCE, table, 1.0, settings.seed)])
            for name in settings.methods:
                study.put(_method(name, table, settings, log))
                study.save()
    return study
