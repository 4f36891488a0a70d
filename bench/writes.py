"""What writing costs: ``python -m bench.writes --out bench/results/...``.

Durable single upserts beside the disk's own sync of a page, batches under both kinds of
durability, deletes; each with maintenance beside the calls and within them.  One thread; a store
in ``--work``, which should be on the disk in question.  Figures go to standard output and, with
the machine, as JSON to ``--out``.
"""

from __future__ import annotations

import argparse
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
from bench.data import load
from bench.machine import machine_facts, without_places

SINGLE = 400
BATCH = 1_000
BATCHES = 40
WARM = 20
MODES = ("background", "inline")


def disk_sync(folder: Path) -> float:
    """Median seconds of writing 4 KB and waiting for the disk."""
    taken = []
    with open(folder / "sync", "wb") as file:
        for _ in range(SINGLE // 2):
            start = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def measure(folder: Path, durability: str, mode: str, rows: NDArray[np.float32]) -> dict[str, Any]:
    """Measure one kind of durability and of maintenance on a store of its own."""
    path = folder / f"{durability}-{mode}"
    with vecstore.open(path, durability=durability, maintenance=mode) as store:
        docs = store.collection("docs", dim=rows.shape[1])
        for i in range(WARM):
            docs.upsert([i], rows[i : i + 1])
            docs.query(rows[i])
        single = np.empty(SINGLE)
        for i in range(SINGLE):
            start = time.perf_counter()
            docs.upsert([i], rows[i : i + 1])
            single[i] = time.perf_counter() - start
        calls = np.empty(BATCHES)
        for i in range(BATCHES):
            ids = np.arange(i * BATCH, (i + 1) * BATCH)
            start = time.perf_counter()
            docs.upsert(ids, rows[ids])
            calls[i] = time.perf_counter() - start
        deletes = np.empty(BATCHES // 2)
        for i in range(len(deletes)):
            ids = np.arange(i * BATCH, (i + 1) * BATCH)
            start = time.perf_counter()
            docs.delete(ids)
            deletes[i] = time.perf_counter() - start
        sound = store.check() == []
    return {
        "durability": durability,
        "maintenance": mode,
        "single_upsert_ms_p50": float(np.median(single)) * 1e3,
        "single_upserts_per_second": SINGLE / float(single.sum()),
        "batch_rows_per_second_p50": BATCH / float(np.median(calls)),
        "batch_rows_per_second_all": BATCH * BATCHES / float(calls.sum()),
        "batch_call_ms_max": float(calls.max()) * 1e3,
        "deletes_per_second_p50": BATCH / float(np.median(deletes)),
        "deletes_per_second_all": BATCH * len(deletes) / float(deletes.sum()),
        "delete_call_ms_max": float(deletes.max()) * 1e3,
        "check_is_sound": sound,
    }


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(prog="python -m bench.writes", description=__doc__)
    parser.add_argument("--dataset", default="sift577k")
    parser.add_argument("--work", type=Path, default=None, help="folder for the stores")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = np.ascontiguousarray(load(arguments.dataset).base[: BATCH * BATCHES], np.float32)
    command = without_places(f"python -m bench.writes {shlex.join(sys.argv[1:])}")
    found: dict[str, Any] = {"machine": machine_facts(command), "dim": rows.shape[1]}
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        found["disk_sync_ms"] = disk_sync(Path(work)) * 1e3
        found["arms"] = [
            measure(Path(work), kind, mode, rows) for kind in ("commit", "batch") for mode in MODES
        ]
    print(json.dumps({key: found[key] for key in ("disk_sync_ms", "arms")}, indent=1))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "writes.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
