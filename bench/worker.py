"""The child process: hosts one adapter, obeys commands, measures time and its own memory.

Nothing but the standard library is imported before the first memory reading, so that what the
libraries cost can be told from what the index costs.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from bench.memory import Memory, read_memory, read_storage_bytes

if TYPE_CHECKING:
    from bench.adapters.base import Adapter


class Worker:
    """State of the child and one method per command; each returns what is sent back."""

    def __init__(self) -> None:
        self._phases: dict[str, Memory] = {"start": read_memory()}
        self._adapter: Adapter

    def _mark(self, phase: str) -> None:
        self._phases[phase] = read_memory()

    def start(self, adapter: str, task: dict[str, Any]) -> dict[str, Any]:
        """Import the adapter's libraries; answers with the seconds this took and versions."""
        from bench.adapters import Task, adapter_class

        self._adapter = adapter_class(adapter)(Task(**task))
        began = time.perf_counter()
        for module in (*self._adapter.modules, *self._adapter.lazy_modules):
            self._adapter.load(module)
        import_s = time.perf_counter() - began
        import numpy  # noqa: F401  (the harness needs it, whatever the library does)

        self._mark("imports")
        return {"import_s": import_s, "versions": self._adapter.versions()}

    def build(self, base: dict[str, Any]) -> dict[str, Any]:
        """Build the index from a memory-mapped file of rows, and close it."""
        import numpy as np

        rows = np.memmap(mode="r", **base)
        self._mark("build_start")
        began, began_cpu = time.perf_counter(), time.process_time()
        self._adapter.build(rows)
        build_s = time.perf_counter() - began
        return {
            "build_s": build_s,
            "build_cpu_s": time.process_time() - began_cpu,
            "peak_rss_bytes": read_memory().peak_rss_bytes,
            "disk_bytes": self._adapter.disk_bytes(),
            "build_params": self._adapter.build_params,
        }

    def open(self, queries: Any) -> dict[str, Any]:
        """Open the built index and answer one query, both timed."""
        import numpy as np

        self._queries = np.ascontiguousarray(queries, dtype=np.float32)
        self._latency_ns = np.ones(len(queries), np.int64)
        self._ids = np.full((len(queries), self._adapter.task.k), -1, np.int32)
        self._rows = self._adapter.rows(self._queries)
        self._loaded = set(sys.modules)
        self._mark("baseline")
        began = time.perf_counter()
        self._adapter.open()
        opened = time.perf_counter()
        self._mark("open")
        points = self._adapter.points()
        self._adapter.select(points[len(points) // 2])
        call = self._adapter.call()
        asked = time.perf_counter()
        call(self._rows[0])
        answered = time.perf_counter()
        self._mark("first_query")
        return {"open_s": opened - began, "first_query_s": answered - asked, "points": points}

    def singles(
        self, params: dict[str, Any], first: int = 0, end: int | None = None
    ) -> dict[str, Any]:
        """One pass: queries from `first` on by the library's single-query call, timed in ns."""
        adapter, rows = self._adapter, self._rows[first:end]
        ids, latency = self._ids[first:end], self._latency_ns[first:end]
        adapter.select(params)
        call, clock = adapter.call(), time.perf_counter_ns
        ids.fill(-1)
        read, faults = read_storage_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        started, cpu = time.time(), time.process_time_ns()
        for i, row in enumerate(rows):
            began = clock()
            answer = call(row)
            latency[i] = clock() - began
            found = adapter.ids(answer)
            ids[i, : len(found)] = found
        return {
            "latency_ns": latency.clip(0, 2**32 - 1).astype("uint32"),
            "ids": ids,
            "started_s": started,
            "elapsed_s": time.time() - started,
            "cpu_s": (time.process_time_ns() - cpu) / 1e9,
            "storage_bytes": read_storage_bytes() - read,
            "major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults,
        }

    def batch(self, params: dict[str, Any]) -> dict[str, Any]:
        """All queries in one call of the library."""
        import numpy as np

        self._adapter.select(params)
        began, cpu = time.perf_counter(), time.process_time()
        found = self._adapter.batch(self._queries)
        seconds = time.perf_counter() - began
        ids = np.full_like(self._ids, -1)
        for i, row in enumerate(found):
            ids[i, : len(row)] = row
        return {"seconds": seconds, "cpu_s": time.process_time() - cpu, "ids": ids}

    def finish(self) -> dict[str, Any]:
        """Read memory a last time, tell what was imported late, close the index."""
        self._mark("after_queries")
        late = {name.partition(".")[0] for name in set(sys.modules) - self._loaded}
        late -= sys.stdlib_module_names | {top.partition(".")[0] for top in self._loaded}
        info = self._adapter.info()
        self._adapter.close()
        return {"late_imports": sorted(late), "info": info}

    def memory(self) -> dict[str, dict[str, int]]:
        """Memory at each phase so far."""
        return {
            phase: {
                "anon_bytes": memory.anon_bytes,
                "file_bytes": memory.file_bytes,
                "rss_bytes": memory.rss_bytes,
            }
            for phase, memory in self._phases.items()
        }


def _answer(worker: Any, command: str, arguments: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "ok", getattr(worker, command)(**arguments)
    except ImportError as error:
        return "unavailable", f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001  (of any library: the parent reports it)
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"
        return "error", f"{type(error).__name__}: {error} ({where})"


def serve(worker: Any) -> None:
    """Let the methods of an object obey the parent until it closes the connection."""
    cpus = os.environ.get("BENCH_CPUS")
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    while True:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        connection.send(_answer(worker, command, arguments))


def main() -> None:
    """Obey the parent until it closes the connection."""
    serve(Worker())


if __name__ == "__main__":
    main()
