"""What the service adds to the library: `python -m bench.service --out FOLDER`.

A store of WordNet-MiniLM (116,659 × 384, cosine) is served from processes of its own and asked
held-out queries over the loopback, at recall 0.95 and k = 10, with metadata. Server and load
share the machine.

* throughput: closed loop over kept connections, by `wrk` where there is one, else by our own loop;
* latency: open loop at a fixed rate, each call timed from when it was due, so that a stall counts
  for all calls that it delays;
* recall of what came back, against exact neighbours;
* batches through `vecstore.connect` against `search` in this process, alternately;
* processor time of the server per call;
* `--soak SECONDS`: memory of the server under queries, upserts and deletes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import psutil

import vecstore
from bench.data import load as load_data
from bench.machine import machine_facts

K = 10
PATH = "/v1/collections/docs/query"
LUA = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local i = math.random(#bodies)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request() i = i %% #bodies + 1; return wrk.format(nil, wrk.path, nil, bodies[i]) end
"""


@contextmanager
def served(path: Path, workers: int, quick: bool = True) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a store; `quick` False sends every call to a thread."""
    patch = "" if quick else "import vecstore.service.runner as r; r.QUICK_S = 0; "
    code = f"{patch}from vecstore.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", str(path), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--workers", f"{workers}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip().rpartition(" at ")[2]
        while True:
            try:
                if urlopen(f"{url}/health/ready", timeout=30).status == 200:
                    break
            except OSError:
                time.sleep(0.05)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


def cpu_s(top: psutil.Process) -> float:
    """Processor time that the processes of a service have used."""
    times = [one.cpu_times() for one in (top, *top.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def memory_bytes(top: psutil.Process) -> int:
    """Memory that the processes have for themselves, pages of files left out."""
    infos = [one.memory_full_info() for one in (top, *top.children(recursive=True))]
    return int(sum(info.uss for info in infos))


def closed_loop(url: str, bodies: Path, connections: int, seconds: int) -> dict[str, float]:
    """Ask as fast as answers come; `wrk` or, without it, the loop below."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return asyncio.run(_closed(url, bodies.read_text().splitlines(), connections, seconds))
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA % bodies)
        script.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", script.name]
        told = subprocess.run([*command, url + PATH], capture_output=True, text=True, check=True)
    assert "Non-2xx" not in told.stdout, told.stdout
    calls = re.search(r"(\d+) requests in", told.stdout)
    shares = dict(re.findall(r"(50|99)%\s+(\S+)", told.stdout))
    assert calls is not None
    return {
        "calls": int(calls[1]),
        "per_s": int(calls[1]) / seconds,
        "p50_ms": _ms(shares["50"]),
        "p99_ms": _ms(shares["99"]),
    }


def _ms(text: str) -> float:
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    found = re.fullmatch(r"([\d.]+)(us|ms|s)", text)
    assert found is not None
    return float(found[1]) * unit[found[2]]


class Connection:
    """One kept connection: a call, its answer."""

    async def open(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._reader, self._writer = await asyncio.open_connection(parts.hostname, parts.port)

    async def call(self, body: bytes) -> None:
        head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        told = await self._reader.readuntil(b"\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200"), told
        length = re.search(rb"content-length: (\d+)", told)
        assert length is not None
        await self._reader.readexactly(int(length[1]))


async def _closed(url: str, bodies: list[str], connections: int, seconds: float) -> Any:
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def one(first: int) -> None:
        connection = Connection()
        await connection.open(url)
        place = first
        while (began := time.perf_counter()) < until:
            await connection.call(bodies[place % len(bodies)].encode())
            took.append(time.perf_counter() - began)
            place += 1

    await asyncio.gather(*(one(97 * i) for i in range(connections)))
    return {"calls": len(took), "per_s": len(took) / seconds, **_shares(took)}


async def open_loop(url: str, bodies: list[str], per_s: float, seconds: float) -> Any:
    """Make calls at a fixed rate, each timed from when it was due."""
    took: list[float] = []
    idle: list[Connection] = []
    running: set[asyncio.Task[None]] = set()

    async def one(due: float, body: bytes) -> None:
        connection = idle.pop() if idle else None
        if connection is None:
            connection = Connection()
            await connection.open(url)
        await connection.call(body)
        took.append(time.perf_counter() - due)
        idle.append(connection)

    start = time.perf_counter() + 0.1
    for place in range(int(per_s * seconds)):
        due = start + place / per_s
        while (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait if wait > 0.002 else 0)
        task = asyncio.ensure_future(one(due, bodies[place % len(bodies)].encode()))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return {"asked_per_s": per_s, "calls": len(took), **_shares(took)}


def _shares(took: list[float]) -> dict[str, float]:
    names = {"p50_ms": 50, "p99_ms": 99, "p999_ms": 99.9}
    return {name: float(np.percentile(took, share)) * 1e3 for name, share in names.items()}


def throughput(path: Path, bodies: Path, seconds: int, repeats: int) -> list[dict[str, Any]]:
    """Single queries a second, by processes and connections; threads against the event loop."""
    found = []
    for workers, connections, quick in (
        (0, 1, True), (0, 16, True), (0, 16, False), (1, 16, True), (2, 16, True), (2, 64, True),
    ):  # fmt: skip
        with served(path, workers, quick) as (url, top):
            closed_loop(url, bodies, connections, 2)
            runs = []
            for _ in range(repeats):
                before = cpu_s(top)
                run = closed_loop(url, bodies, connections, seconds)
                run["server_cpu_us"] = 1e6 * (cpu_s(top) - before) / run["calls"]
                runs.append(run)
        best = max(runs, key=lambda run: run["per_s"])
        where = "event loop" if quick else "threads"
        found.append({"workers": workers, "connections": connections, "runs_in": where, **best})
        print(found[-1], flush=True)
    return found


def batches(url: str, docs: Any, queries: Any, neighbors: Any, repeats: int) -> dict[str, float]:
    """Queries a second of batches, here and through the service, in turns; and recall of both."""
    took: dict[str, list[float]] = {"embedded": [], "service": []}
    recall = {}
    with vecstore.connect(url) as store:
        sides = {"embedded": docs, "service": store.collection("docs")}
        for _ in range(repeats):
            for name, side in sides.items():
                began = time.perf_counter()
                ids = side.search(queries, k=K, recall=0.95).ids
                took[name].append(time.perf_counter() - began)
                pairs = zip(ids, neighbors[:, :K], strict=True)
                recall[name] = float(np.mean([len(set(a) & set(b)) for a, b in pairs])) / K
    rates = {f"{name}_per_s": len(queries) / min(times) for name, times in took.items()}
    share = rates["service_per_s"] / rates["embedded_per_s"]
    return {**rates, "share": share, **{f"{name}_recall": r for name, r in recall.items()}}


def soak(path: Path, bodies: Path, seconds: int, dim: int) -> list[dict[str, float]]:
    """Memory of a service under queries, upserts and deletes, every ten seconds."""
    rng = np.random.default_rng(0)
    seen: list[dict[str, float]] = []
    with served(path, 1) as (url, top), vecstore.connect(url) as store:
        docs = store.collection("docs")
        began = time.monotonic()
        number = 10**9
        while (at_s := time.monotonic() - began) < seconds:
            run = closed_loop(url, bodies, 8, 9)
            ids = list(range(number, number + 200))
            docs.upsert(ids, rng.normal(size=(200, dim)), [{"n": i} for i in ids])
            docs.delete(ids)
            memory_mb = memory_bytes(top) / 1e6
            seen.append({"at_s": round(at_s), "mb": memory_mb, "per_s": run["per_s"]})
            print(seen[-1], flush=True)
    return seen


def main() -> None:
    """Measure, print, and keep the raw figures."""
    parser = argparse.ArgumentParser(description="Measure the service over the loopback.")
    parser.add_argument("--dataset", default="wordnet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="a store made by an earlier run")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--soak", type=int, default=0, metavar="SECONDS")
    given = parser.parse_args()
    data = load_data(given.dataset)
    with tempfile.TemporaryDirectory() as folder:
        path = given.store or Path(folder) / "store"
        if not path.exists():
            with vecstore.open(path) as store:
                docs = store.collection("docs", dim=data.base.shape[1], metric=data.metric)
                docs.load(data.base, metadata=[{"n": i} for i in range(len(data.base))])
        bodies = Path(folder) / "bodies.jsonl"
        asked = [{"vector": [round(x, 6) for x in q.tolist()], "k": K, "recall": 0.95}
                 for q in data.queries]  # fmt: skip
        bodies.write_text("\n".join(map(json.dumps, asked)))
        facts = machine_facts("python -m bench.service")
        report: dict[str, Any] = {"machine": facts, "dataset": given.dataset}
        if given.soak:
            report["soak"] = soak(path, bodies, given.soak, data.base.shape[1])
        else:
            report["throughput"] = throughput(path, bodies, given.seconds, given.repeats)
            with served(path, 2) as (url, _):
                lines = bodies.read_text().splitlines()
                asyncio.run(open_loop(url, lines, 500, 2))
                runs = [
                    asyncio.run(open_loop(url, lines, 1_500, given.seconds))
                    for _ in range(given.repeats)
                ]
                report["latency"] = runs
                print(runs, flush=True)
                with vecstore.open(path, "r") as store:
                    docs = store.collection("docs")
                    report["batches"] = batches(url, docs, data.queries, data.neighbors, 9)
            print(report["batches"], flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    name = "soak.json" if given.soak else "service.json"
    (given.out / name).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
