"""The child process of one arm: builds, opens, answers queries, reads its own memory."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.memory import read_anonymous, read_memory, read_storage_bytes
from bench.worker import serve

if TYPE_CHECKING:
    from bench.tenants.arms import Arm


def disk_bytes(folder: Path) -> int:
    """Bytes that the files below a folder take on disk."""
    return sum(
        min(found.st_blocks * 512, found.st_size)
        for path in folder.rglob("*")
        if path.is_file()
        for found in (os.stat(path),)
    )


class Worker:
    """State of the child and one method per command."""

    def __init__(self) -> None:
        self._memory: dict[str, int] = {"start": read_anonymous()}
        self._arm: Arm

    def start(self, arm: str, module: str, place: dict[str, Any]) -> dict[str, Any]:
        """Import the arm's libraries; map the workload and read its small tables."""
        import importlib.metadata as metadata

        from bench.tenants.arms import Place

        self._arm = importlib.import_module(module).ARMS[arm](Place(**place))
        for name in self._arm.modules:
            self._arm.load(name)
        self._memory["imports"] = read_anonymous()
        self._arm.prepare()
        self._queries = {
            name: (
                [self._arm.row(x) for x in asked.vectors.copy()],
                [int(t) for t in asked.tenants],
            )
            for name, asked in self._arm.workload.asked.items()
        }
        self._memory["baseline"] = read_anonymous()
        return {"versions": {p: metadata.version(p) for p in self._arm.packages}}

    def build(self) -> dict[str, Any]:
        """Build and save."""
        self._arm.folder.mkdir(parents=True, exist_ok=True)
        began, began_cpu = time.perf_counter(), time.process_time()
        self._arm.build()
        return {
            "build_s": time.perf_counter() - began,
            "build_cpu_s": time.process_time() - began_cpu,
            "disk_bytes": disk_bytes(self._arm.folder),
            "peak_rss_bytes": read_memory().peak_rss_bytes,
        }

    def open(self) -> dict[str, Any]:
        """Open what was built."""
        began = time.perf_counter()
        self._arm.open()
        opened = time.perf_counter() - began
        self._memory["open"] = read_anonymous()
        return {"open_s": opened, "points": self._arm.points()}

    def served(self, asked: str) -> list[bool]:
        """Which queries of a set the arm has an index for."""
        return [self._arm.serves(scope) for scope in self._queries[asked][1]]

    def singles(
        self, asked: str, params: dict[str, Any], budget_s: float, only: list[int] | None = None
    ) -> dict[str, Any]:
        """One pass: one query after the other, each timed in ns, until the budget is used up."""
        import numpy as np

        rows, scopes = self._queries[asked]
        places = range(len(rows)) if only is None else only
        arm, k, clock = self._arm, self._arm.place.k, time.perf_counter_ns
        arm.select(params, sorted({scopes[i] for i in places}))
        call = arm.call()
        latency = np.zeros(len(rows), np.int64)
        ids = np.full((len(rows), k), -1, np.int64)
        read, done = read_storage_bytes(), 0
        ends = clock() + int(budget_s * 1e9)
        for i in places:
            row, scope = rows[i], scopes[i]
            began = clock()
            answer = call(scope, row)
            ended = clock()
            latency[i] = ended - began
            found = arm.ids(answer)
            ids[i, : len(found)] = found
            done += 1
            if ended > ends:
                break
        return {
            "latency_ns": latency,
            "ids": ids,
            "done": done,
            "storage_bytes": read_storage_bytes() - read,
        }

    def runtime(self, build: bool) -> int:
        """Build an almost empty store, or, in another process, tell what any use of it costs.

        Returns
        -------
        int
            Anonymous bytes beyond the baseline.
        """
        self._arm.folder.mkdir(parents=True, exist_ok=True)
        if not self._arm.runtime(build):
            return 0
        return read_anonymous() - self._memory["baseline"]

    def finish(self) -> dict[str, Any]:
        """Read memory a last time and close."""
        self._memory["after_queries"] = read_anonymous()
        info = self._arm.info()
        self._arm.close()
        return {"memory": self._memory, "info": info}

    def memory(self) -> dict[str, int]:
        """Anonymous memory by phase, and now."""
        return {**self._memory, "now": read_anonymous()}

    def call(self, module: str, function: str, **arguments: Any) -> Any:
        """Run a function of a module in this process, on the arm."""
        return getattr(importlib.import_module(module), function)(self._arm, **arguments)


if __name__ == "__main__":
    serve(Worker())
