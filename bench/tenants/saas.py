"""W2: very many tenants: opening, memory of idle ones, first and warm queries, all of them once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.limits import drop_cache
from bench.tenants.arms import COLLECTION, Vecstore
from bench.tenants.contest import MODULE, Contestant, Terms, figures
from bench.tenants.model import Workload
from bench.tenants.records import Record
from bench.tenants.truth import Truth, hits, strangers

EXACT = {"recall": 0.95}
HUGE_S = 1e6
HERE = "bench.tenants.saas"


def make_empty(arm: Vecstore) -> None:
    """Make a collection of tenants that has none."""
    folder = _empty(arm)
    shutil.rmtree(folder, ignore_errors=True)
    made = arm.workload
    with arm.load("vecstore").open(folder / "store") as store:
        store.collection(COLLECTION, int(made.base.shape[1]), made.metric, tenants=True)


def empty(arm: Vecstore) -> dict[str, Any]:
    """Do as `idle` does with the collection that has no tenants."""
    arm.folder = _empty(arm)
    return idle(arm)


def _empty(arm: Vecstore) -> Path:
    return arm.folder.with_name(f"{arm.folder.name}-empty")


def wake(arm: Vecstore) -> dict[str, float]:
    """Load the kernels by a query of the whale; seconds of that, and of the next."""
    query = np.array(arm.workload.asked["small"].vectors[0])
    found = []
    for _ in range(2):
        began = time.perf_counter()
        arm.docs.tenant(arm.names[0]).query(query)
        found.append(time.perf_counter() - began)
    return {"first_query_of_the_process_s": found[0], "second_s": found[1]}


def idle(arm: Vecstore) -> dict[str, Any]:
    """Open the collection and read its snapshot without asking any tenant that exists."""
    from bench.memory import read_anonymous

    query = np.array(arm.workload.asked["small"].vectors[0])
    before = read_anonymous()
    began = time.perf_counter()
    arm.open()
    opened = time.perf_counter() - began
    after_open = read_anonymous() - before
    began = time.perf_counter()
    arm.docs.tenant("nobody").query(query)
    return {
        "open_s": opened,
        "anonymous_bytes": after_open,
        "nobody_s": time.perf_counter() - began,
        "anonymous_bytes_after_nobody": read_anonymous() - before,
        "disk_bytes": sum(p.stat().st_blocks * 512 for p in arm.folder.rglob("*") if p.is_file()),
    }


def run(
    made: Workload,
    truths: dict[str, Truth],
    record: Record,
    work: Path,
    terms: Terms,
    say: Callable[[str], None],
) -> None:
    """Build, then measure in fresh processes; saves after each step."""
    data = work / "workload"
    shutil.rmtree(data, ignore_errors=True)
    made.save(data)
    out = record.data
    out["workload"] = made.described()
    arm = Contestant("vecstore", data, work, terms, MODULE)
    out["arm"] = arm.record
    say("building vecstore")
    arm.build()
    record.save()
    out["empty"], out["idle"] = [], []
    with arm.start(1) as child:
        child.ask("call", module=HERE, function="make_empty")
    for _ in range(max(3, terms.repeats)):
        for name in ("empty", "idle"):
            with arm.start(1) as child:
                out[name].append(child.ask("call", module=HERE, function=name))
    record.save()

    def measure(label: str, asked: str) -> None:
        found = arm.ask("singles", asked=asked, params=EXACT, budget_s=HUGE_S)
        queries = made.asked[asked]
        latency = found["latency_ns"].astype(np.uint32)
        entry = out["passes"][label] = {
            "queries": len(latency),
            **figures(latency[None]),
            "first_us": float(latency[0] / 1e3),
            "max_us": float(latency.max() / 1e3),
            "storage_bytes": found["storage_bytes"],
            "anonymous": arm.ask("memory"),
        }
        if asked in truths:
            shares = hits(made, queries, truths[asked], found["ids"])
            entry["recall"] = float(shares.mean())
            entry["strangers"] = strangers(found["ids"], queries, made.rows_of)
        entry["file"] = record.save_arrays(
            label.replace(",", "").replace(" ", "-"), latency_ns=latency
        )
        say(f"{label}: {entry['p50_us']:.0f} µs, {entry['p99_us']:.0f} at p99")
        record.save()

    out["passes"] = {}
    arm.open()
    out["wake"] = arm.ask("call", module=HERE, function="wake")
    measure("ten rows, first, pages in memory", "small")
    measure("ten rows, warm", "small")
    for repeat in range(terms.repeats):
        measure(f"heat, pass {repeat + 1}", "heat")
    measure("each tenant once", "each")
    measure("ten rows, warm, after each tenant", "small")
    arm.stop()
    say("putting the store out of the page cache")
    drop_cache(work / "vecstore")
    arm.open()
    out["wake_pages_on_disk"] = arm.ask("call", module=HERE, function="wake")
    measure("ten rows, first, pages on disk", "small")
    arm.stop()
