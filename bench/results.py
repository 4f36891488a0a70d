"""Raw results on disk: one ``run.json`` and one ``.npz`` per (dataset, adapter).

The npz holds, with q queries, p parameter points and r repeats::

    latency_ns      (r, p, q)  uint32   each call of each measured pass (saturates at 4.29 s)
    ids             (q, k, p)  int32    answers of the first measured pass, -1 where fewer
    found           (q, k, p)  bool     the answer is one of the true k nearest, ties counted
    changed         (r, p)     int32    queries whose ids differ from the first pass
    cpu_s, elapsed_s, started_s, storage_bytes, major_faults  (r, p)
    reads           (r, p)     int64    requests that reached the disk, in cold runs
    batch_seconds, batch_cpu_s  (t, b, r)   t thread counts, b points (record["batch"])
    batch_found     (t, b, q, k)  bool

Everything else is derived by `bench.report`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.channel import REPOSITORY, BenchError

SCHEMA = 1
RESULTS = REPOSITORY / "bench" / "results"


@dataclass
class Pair:
    """What one adapter did on one dataset.

    Attributes
    ----------
    record : dict
        JSON values: status ("ok", "skipped", "failed"), reason, versions, build, open, memory,
        points, dropped points, batch, and the sitting: all pairs of a dataset that have one
        number were measured in turns.
    arrays : dict
        See the module's text; empty unless status is "ok".
    """

    dataset: str
    adapter: str
    record: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are measurements."""
        return self.record.get("status") == "ok"


@dataclass
class Run:
    """One run: machine facts, settings, datasets' facts, pairs."""

    folder: Path
    machine: dict[str, Any]
    settings: dict[str, Any]
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    _written: set[str] = field(default_factory=set)

    def of(self, dataset: str) -> list[Pair]:
        """Pairs of one dataset."""
        return [pair for pair in self.pairs if pair.dataset == dataset]

    def replace(self, dataset: str, pairs: Sequence[Pair]) -> None:
        """Add a sitting; what adapters in it did not do before is forgotten."""
        names = {pair.adapter for pair in pairs}
        self.pairs = [
            pair
            for pair in self.pairs
            if pair.ok or pair.dataset != dataset or pair.adapter not in names
        ]
        self.pairs += pairs

    def save(self) -> None:
        """Write everything; called after each sitting, so that a broken run keeps its start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for pair in self.pairs:
            entry = {"dataset": pair.dataset, "adapter": pair.adapter, **pair.record}
            if pair.arrays:
                number = pair.record.get("sitting", 0)
                again = f"--{number}" if number else ""
                entry["file"] = f"{pair.dataset}--{pair.adapter}{again}.npz"
                path = self.folder / entry["file"]
                if path.name not in self._written:
                    np.savez_compressed(path, allow_pickle=False, **pair.arrays)
                    self._written.add(path.name)
            entries.append(entry)
        whole = {
            "schema": SCHEMA,
            "machine": self.machine,
            "settings": self.settings,
            "datasets": self.datasets,
            "pairs": entries,
        }
        text = json.dumps(whole, indent=1, default=_plain)
        part = self.folder / "run.json.part"
        part.write_text(text + "\n", "utf-8")
        part.replace(self.folder / "run.json")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def load_run(path: Path) -> Run:
    """Read a run from its folder or its ``run.json``.

    Raises
    ------
    BenchError
        There is no run, or it has another schema.
    """
    file = path / "run.json" if path.is_dir() else path
    try:
        whole = json.loads(file.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BenchError(f"{file} is no benchmark run: {error}") from error
    if whole.get("schema") != SCHEMA:
        raise BenchError(f"{file} has schema {whole.get('schema')}, this code reads {SCHEMA}.")
    run = Run(file.parent, whole["machine"], whole["settings"], whole["datasets"])
    for entry in whole["pairs"]:
        name = entry.pop("file", None)
        arrays = {}
        if name:
            with np.load(file.parent / name) as stored:
                arrays = dict(stored)
            run._written.add(name)
        entry.setdefault("sitting", 0)
        run.pairs.append(Pair(entry.pop("dataset"), entry.pop("adapter"), entry, arrays))
    return run


def latest_run() -> Path:
    """Folder of the newest run under bench/results.

    Raises
    ------
    BenchError
        There is none.
    """
    found = sorted(RESULTS.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BenchError(f"No run under {RESULTS.relative_to(REPOSITORY)}; `bench run` makes one.")
    return found[-1].parent


def store_report(folder: Path, name: str, found: Any, text: str) -> None:
    """Write what a bench found to `name`.json, and the page that tells it to `name`.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (folder / f"{name}.md").write_text(text, "utf-8")
