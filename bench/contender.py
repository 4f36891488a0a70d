"""One adapter on one dataset: its work folder, its child processes, what they reported."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.adapters import Task, adapter_class, missing_modules
from bench.channel import Child, UnavailableError, thread_environment
from bench.limits import Group, control_group, drop_cache
from bench.memory import PeakSampler


def all_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


class Contender:
    """An adapter that takes part in a run.

    Parameters
    ----------
    name : str
        Adapter name.
    task : Task
        With the work folder of this (adapter, dataset); its thread count is set per process.

    Attributes
    ----------
    group : Group or None
        Of the query process, while it has a memory limit.
    """

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        self.task = task
        self.record: dict[str, Any] = {"status": "ok"}
        self.sweep: list[dict[str, Any]] = []
        self._class = adapter_class(name)
        self.group: Group | None = None
        self._child: Child | None = None
        self._stack = ExitStack()
        self._log = task.workdir.with_suffix(".log")
        self._built = task.workdir.with_suffix(".build.json")

    def _spawn(self, threads: int, pinned: bool) -> Child:
        environment = thread_environment(threads) | self._class.environment(threads)
        if pinned:
            chosen = sorted(os.sched_getaffinity(0))[-threads:]
            environment["BENCH_CPUS"] = ",".join(map(str, chosen))
        return Child(self._log, environment, self.group.folders if self.group else ())

    def _start(self, child: Child, threads: int) -> dict[str, Any]:
        task = asdict(replace(self.task, threads=threads))
        started: dict[str, Any] = child.ask("start", adapter=self.name, task=task)
        return started

    def build(self, source: dict[str, Any], reuse: bool) -> None:
        """Build in a fresh process with all cores, or take over an earlier build of the same.

        Raises
        ------
        UnavailableError
            A library is missing.
        BenchError
            The build failed.
        """
        missing = missing_modules(self.name)
        if missing:
            raise UnavailableError(f"not installed: {', '.join(missing)}")
        identity = {
            "source": {**source, "shape": list(source["shape"])},
            "metric": self.task.metric,
            "versions": self._class.versions(),
            "build_params": self._class.build_params,
            "code": self._class.code(),
            "file_time_s": os.stat(source["filename"]).st_mtime,
        }
        if reuse and self._built.exists():
            earlier = json.loads(self._built.read_text("utf-8"))
            if earlier["identity"] == identity:
                self.record["build"] = {**earlier["build"], "reused": True}
                return
        self._built.unlink(missing_ok=True)
        shutil.rmtree(self.task.workdir, ignore_errors=True)
        self.task.workdir.mkdir(parents=True)
        self._log.unlink(missing_ok=True)
        self.record["build"] = {**self._build(source), "reused": False}
        text = json.dumps({"identity": identity, "build": self.record["build"]})
        self._built.write_text(text, "utf-8")

    def _build(self, source: dict[str, Any]) -> dict[str, Any]:
        threads = all_cores()
        with self._spawn(threads, pinned=False) as child:
            started = self._start(child, threads)
            before = child.ask("memory")["imports"]["anon_bytes"]
            with PeakSampler(child.pid) as sampler:
                built: dict[str, Any] = child.ask("build", base=source)
        return {
            **built,
            "threads": threads,
            "import_s": started["import_s"],
            "imports_anon_bytes": before,
            "peak_anon_bytes": max(sampler.peak_anon_bytes, before),
            "anon_samples": sampler.samples,
        }

    def open(
        self, queries: NDArray[np.float32], threads: int, limit_bytes: int | None = None
    ) -> dict[str, Any]:
        """Start a query process: one thread without pinning, or a batch process.

        Parameters
        ----------
        queries : ndarray (q, d)
        threads : int
            1 for single queries; batch processes use `open_batch`.
        limit_bytes : int or None
            Memory limit of the process; the index is put out of the page cache first.
        """
        name = f"vecstore-bench-{os.getpid()}-{self.name}"
        self.group = self._stack.enter_context(control_group(name, limit_bytes, self.task.workdir))
        if limit_bytes is not None:
            drop_cache(self.task.workdir)
        return self._serve(self._spawn(threads, False), queries, threads)

    def open_batch(self, queries: NDArray[np.float32], threads: int) -> dict[str, Any]:
        """Start a process for batches, held to ``threads`` cores by its affinity."""
        pinned = threads < all_cores()
        return self._serve(self._spawn(threads, pinned), queries, threads)

    def _serve(self, child: Child, queries: NDArray[np.float32], threads: int) -> dict[str, Any]:
        self._child = self._stack.enter_context(child)
        started = self._start(child, threads)
        opened: dict[str, Any] = child.ask("open", queries=queries)
        return {**started, **opened}

    def ask(self, command: str, **arguments: Any) -> Any:
        """Pass a command to the query process."""
        assert self._child is not None
        return self._child.ask(command, **arguments)

    def finish(self) -> dict[str, Any]:
        """Last memory reading of the query process, and what the library says of itself."""
        ended: dict[str, Any] = self.ask("finish")
        return {**ended, "memory": self.ask("memory")}

    def stop(self) -> None:
        """End the query process; harmless when there is none."""
        self._child = self.group = None
        self._stack.close()
