"""A small tenant's latency while another tenant loads at full speed, in a thread or a process."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.channel import BenchError
from bench.tenants.arms import Vecstore
from bench.tenants.contest import MODULE, Contestant, Terms
from bench.tenants.model import Workload
from bench.tenants.operations import copied
from bench.tenants.records import Record

BLOCK = 1_000
HOLD_S = 120.0
"""Seconds that a loader may take to end its last call."""


def choose(made: Workload, rows: int) -> int:
    """The tenant whose size is nearest to a number of rows."""
    return int(np.abs(made.sizes - rows).argmin())


def keep_loading(arm: Vecstore, stop: Callable[[], bool]) -> dict[str, Any]:
    """Upsert blocks of rows for a tenant of its own until told to stop."""
    made, docs = arm.workload, arm.docs.tenant("the-loader")
    base, done, calls = made.base, 0, []
    began = time.perf_counter()
    while not stop():
        start = done % max(1, len(base) - BLOCK)
        ids = np.arange(10**9 + done, 10**9 + done + BLOCK)
        call = time.perf_counter()
        docs.upsert(ids, np.array(base[start : start + BLOCK]))
        calls.append(time.perf_counter() - call)
        done += BLOCK
    seconds = time.perf_counter() - began
    return {"rows": done, "seconds": seconds, "longest_call_s": max(calls, default=0.0)}


def ask_for(arm: Vecstore, tenant: int, seconds: float) -> list[int]:
    """Latencies in ns of a tenant's queries, one after the other, for some seconds."""
    view, k = arm.docs.tenant, arm.place.k
    name = arm.names[tenant]
    rows = [np.array(x) for x in next(iter(arm.workload.asked.values())).vectors]
    clock, found, place = time.perf_counter_ns, [], 0
    ends = clock() + int(seconds * 1e9)
    while clock() < ends:
        began = clock()
        view(name).query(rows[place % len(rows)], k=k)
        found.append(clock() - began)
        place += 1
    return found


def in_thread(arm: Vecstore, tenant: int, seconds: float, folder: str) -> dict[str, Any]:
    """Quiet, then beside a loading thread of the same process, then quiet again."""
    arm.folder = Path(folder)
    arm.open("w")
    ask_for(arm, tenant, 1.0)
    quiet = ask_for(arm, tenant, seconds)
    stop, told = threading.Event(), {}

    def load() -> None:
        told.update(keep_loading(arm, stop.is_set))

    thread = threading.Thread(target=load)
    thread.start()
    busy = ask_for(arm, tenant, seconds)
    stop.set()
    thread.join()
    after = ask_for(arm, tenant, seconds)
    arm.close()
    return {"quiet": quiet, "busy": busy, "after": after, "loader": told}


def loader(arm: Vecstore, seconds: float, folder: str) -> dict[str, Any]:
    """Load in a process of its own."""
    arm.folder = Path(folder)
    arm.open("w")
    ends = time.perf_counter() + seconds
    told = keep_loading(arm, lambda: time.perf_counter() > ends)
    arm.close()
    return told


def reader(arm: Vecstore, tenant: int, seconds: float, folder: str) -> dict[str, Any]:
    """Open for reading and ask."""
    arm.folder = Path(folder)
    arm.open("r")
    ask_for(arm, tenant, 1.0)
    found = {"latency": ask_for(arm, tenant, seconds)}
    arm.close()
    return found


def copy(arm: Vecstore) -> str:
    """Copy the built store; the folder of the copy."""
    return str(copied(arm, "load"))


def run(
    made: Workload,
    record: Record,
    work: Path,
    terms: Terms,
    seconds: float,
    small_rows: int,
    say: Callable[[str], None],
) -> None:
    """Measure both; saves after each step."""
    data = work / "workload"
    shutil.rmtree(data, ignore_errors=True)
    made.save(data)
    out = record.data
    tenant = choose(made, small_rows)
    out["workload"] = made.described()
    out["small_rows"] = int(made.sizes[tenant])
    arm = Contestant("vecstore", data, work, terms, MODULE)
    out["arm"] = arm.record
    say("building vecstore")
    arm.build()
    here = {"module": "bench.tenants.load"}
    latencies: dict[str, list[int]] = {}

    def keep() -> None:
        out["latency"] = {name: _figures(values) for name, values in latencies.items()}
        arrays = {name.replace(" ", "-"): np.array(v) for name, v in latencies.items()}
        record.save_arrays("latency", **arrays)
        record.save()

    say("beside a thread")
    with arm.start(1) as child:
        folder = child.ask("call", function="copy", **here)
        found = child.ask(
            "call", function="in_thread", tenant=tenant, seconds=seconds, folder=folder, **here
        )
    latencies |= {f"thread {name}": found[name] for name in ("quiet", "busy", "after")}
    out["loader_thread"] = found["loader"]
    keep()
    say("beside a process")
    with arm.start(1) as writer, arm.start(1) as asker:
        folder = writer.ask("call", function="copy", **here)
        ask = {"function": "reader", "tenant": tenant, "seconds": seconds, "folder": folder, **here}
        latencies["process quiet"] = asker.ask("call", **ask)["latency"]
        told: dict[str, Any] = {}

        def write() -> None:
            length = {"seconds": seconds + 4.0, "folder": folder}
            told.update(writer.ask("call", function="loader", **length, **here))

        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(1.5)
        latencies["process busy"] = asker.ask("call", **ask)["latency"]
        thread.join(HOLD_S)
        if not told:
            raise BenchError("The loading process did not end.")
    out["loader_process"] = told
    shutil.rmtree(folder, ignore_errors=True)
    keep()


def _figures(latency_ns: list[int]) -> dict[str, float]:
    values = np.array(latency_ns, np.float64) / 1e3
    return {
        "queries": len(values),
        "p50_us": float(np.percentile(values, 50)),
        "p99_us": float(np.percentile(values, 99)),
        "p999_us": float(np.percentile(values, 99.9)),
        "max_us": float(values.max()),
    }
