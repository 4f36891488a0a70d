"""The study's raw results on disk: one ``compression.json`` in a results folder.

Everything else, tables, plots, recommendations, is derived from it by `bench.compression.report`.
A folder may be filled by several runs: a cell names the run that measured it, and a later run
replaces the cells that it measures again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.channel import BenchError

SCHEMA = 1
FILE = "compression.json"


@dataclass(frozen=True)
class Cell:
    """One method on one dataset at one budget.

    Attributes
    ----------
    record : dict
        As `bench.compression.measure.measure` returns it, with ``run``: the place of its run.
    raw_bytes, rows : int
        Of the dataset.
    """

    record: dict[str, Any]
    raw_bytes: int
    rows: int

    @property
    def ok(self) -> bool:
        """Whether there are measurements."""
        return bool(self.record["status"] == "ok")

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.record["method"])

    @property
    def budget(self) -> float:
        """Share of float32 that was allowed."""
        return float(self.record["budget"])

    @property
    def share(self) -> float:
        """True bytes by the float32 bytes."""
        return float(self.record["bytes"] / self.raw_bytes)

    @property
    def deflated_share(self) -> float:
        """True bytes after DEFLATE by the float32 bytes."""
        return float(self.record["deflated_bytes"] / self.raw_bytes)

    @property
    def error(self) -> float:
        """Relative reconstruction error."""
        return float(self.record["relative_error"])

    @property
    def recall(self) -> float:
        """Mean share of the true neighbours found."""
        found = self.record["found"]
        hits = sum(place * count for place, count in enumerate(found))
        return float(hits / (sum(found) * (len(found) - 1)))

    def rows_per_s(self, what: str) -> float:
        """Rows per CPU second of "encode", "decode" (median repetition) or "lookup".

        CPU time, since the thread is one and the machine may be shared.
        """
        if what == "lookup":
            return float(self.record["lookup_rows"] / self.record["lookup_s"][1])
        seconds = sorted(cpu for _, cpu in self.record[f"{what}_s"])
        return float(self.rows / seconds[len(seconds) // 2])


@dataclass
class Study:
    """All runs into one results folder.

    Attributes
    ----------
    folder : Path
    runs : list of dict
        Machine facts, settings and versions of each run.
    datasets : dict
        Rows, dimensions, metric and number of queries by name.
    records : dict
        Cells by (dataset, method, budget).
    """

    folder: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[tuple[str, str, float], dict[str, Any]] = field(default_factory=dict)

    def put(self, records: Iterable[dict[str, Any]]) -> None:
        """Add or replace cells, measured by the last run."""
        for record in records:
            key = (record["dataset"], record["method"], record["budget"])
            self.records[key] = {**record, "run": len(self.runs) - 1}

    def cells(self, dataset: str) -> list[Cell]:
        """All cells of a dataset."""
        facts = self.datasets[dataset]
        raw_bytes = facts["rows"] * facts["dim"] * 4
        return [
            Cell(record, raw_bytes, facts["rows"])
            for (name, _, _), record in self.records.items()
            if name == dataset
        ]

    def save(self) -> None:
        """Write everything; called after each method, so that a broken run keeps its start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {
            "schema": SCHEMA,
            "runs": self.runs,
            "datasets": self.datasets,
            "cells": list(self.records.values()),
        }
        fresh = self.folder / f"{FILE}.new"
        fresh.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
        fresh.replace(self.folder / FILE)


def load_study(folder: Path) -> Study:
    """Read a study from its folder.

    Raises
    ------
    BenchError
        There is none, or it has another schema.
    """
    file = folder / FILE
    try:
        whole = json.loads(file.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BenchError(f"{file} is no compression study: {error}") from error
    if whole.get("schema") != SCHEMA:
        raise BenchError(f"{file} has schema {whole.get('schema')}, this code reads {SCHEMA}.")
    study = Study(folder, whole["runs"], whole["datasets"])
    for record in whole["cells"]:
        study.records[record["dataset"], record["method"], record["budget"]] = record
    return study
