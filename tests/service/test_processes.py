"""The service as processes: killed readers, killed writers, stops under load, sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pytest

import vecstore
from tests.store_checks import ROOT

DIM = 8
BACK_S = 2.0
"""After a kill, calls are answered again within this time (measured on a quiet machine)."""

SLACK_S = 8.0
"""What a machine that does other things at the same time may add."""


class Served:
    """`vecstore serve` in processes of its own."""

    def __init__(self, path: Path, *options: str) -> None:
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self.top = subprocess.Popen(
            [sys.executable, "-m", "vecstore.cli", "serve", str(path), *options],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
        )
        assert self.top.stdout is not None
        line = self.top.stdout.readline()
        assert " at " in line, self.lines()
        self.url = line.strip().rpartition(" at ")[2]

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        with open(self.log.name, encoding="utf-8") as log:
            parsed = [json.loads(line) for line in log if line.endswith("\n")]
        return [line for line in parsed if event in (None, line["event"])]

    def wait(self, part: str, ready: int = 1) -> list[int]:
        """Wait until so many processes of a part were ready since the start; their ids."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = [line["pid"] for line in self.lines("ready") if line["part"] == part]
            if len(found) >= ready:
                return found
            time.sleep(0.01)
        raise AssertionError(f"not {ready} of {part} got ready: {self.lines()}")

    def close(self) -> None:
        if self.top.poll() is None:
            self.top.terminate()
        assert self.top.stdout is not None
        self.top.stdout.close()
        self.top.wait(60)
        self.log.close()


@contextmanager
def served(path: Path, *options: str) -> Iterator[Served]:
    """Serve until the block ends."""
    made = Served(path, "--port", "0", *options)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processes") / "store"
    with vecstore.open(path) as store:
        store.collection("docs", dim=DIM).upsert([0], np.ones((1, DIM)))
    return path


class Load:
    """Threads that call until they are told to stop, and what they were told."""

    def __init__(self, threads: int, call: Callable[[int], Any]) -> None:
        self.done: list[tuple[float, float, int]] = []
        self.failed: list[BaseException] = []
        self._stop = threading.Event()
        self._next = iter(range(1, 10**9))
        self._lock = threading.Lock()
        self._call = call
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number = next(self._next)
            began = time.monotonic()
            try:
                self._call(number)
            except vecstore.VecstoreError as error:
                self.failed.append(error)
            else:
                self.done.append((began, time.monotonic(), number))

    def wait(self, more: int) -> None:
        """Wait until so many further calls were answered."""
        wanted, until = len(self.done) + more, time.monotonic() + 60
        while len(self.done) < wanted:
            assert time.monotonic() < until, f"calls are not answered: {self.failed[-1:]}"
            time.sleep(0.005)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def vector_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=DIM).astype(np.float32)


def test_a_killed_writer_loses_nothing_and_is_back(made: Path) -> None:
    with served(made, "--workers", "1") as service:
        service.wait("reader")
        service.wait("writer")
        with vecstore.connect(service.url) as store:
            docs = store.collection("docs")

            def write(number: int) -> None:
                verb = docs.add if number % 3 else docs.upsert
                verb([number], vector_of(number)[None], [{"n": number}])

            deleted = []

            def delete(number: int) -> None:
                deleted.append(docs.delete([9_000 + number]))

            docs.upsert(np.arange(9_000, 39_000), np.ones((30_000, DIM)))
            load, deletes = Load(3, write), Load(1, delete)
            gaps = []
            for kill in range(1, 3):
                load.wait(30)
                os.kill(service.wait("writer", kill)[-1], signal.SIGKILL)
                killed_at = time.monotonic()
                load.wait(6)  # more than may have been on their way
                gaps.append(next(b for a, b, _ in sorted(load.done) if a > killed_at) - killed_at)
            load.wait(10)
            load.stop()
            deletes.stop()
            assert deletes.failed == []
            assert set(deleted) == {1}, "what was done before a kill is counted as it was then"
            assert max(gaps) < BACK_S + SLACK_S, gaps
            assert load.failed == [], "a write that was lost is sent again, and carried out once"
            numbers = [number for _, _, number in load.done]
            hits = docs.get(numbers)
            assert [hit and hit.metadata for hit in hits] == [{"n": number} for number in numbers]
            assert (docs.vectors(numbers) == np.stack([vector_of(one) for one in numbers])).all()
            assert store.check() == []


def test_a_killed_reader_is_back(made: Path) -> None:
    with served(made, "--workers", "2") as service:
        service.wait("reader", 2)
        with vecstore.connect(service.url) as store:
            docs = store.collection("docs")
            load = Load(4, lambda number: docs.query(vector_of(number), k=1))
            for kill in range(2):
                load.wait(100)
                os.kill(service.wait("reader", 2 + kill)[kill], signal.SIGKILL)
                killed_at = time.monotonic()
                load.wait(100)
                service.wait("reader", 3 + kill)
                assert time.monotonic() - killed_at < BACK_S + SLACK_S
            load.stop()
            assert load.failed == [], "a query that was lost on its way is asked again"
            text = raw_metrics(service.url)
            assert text.count("vecstore_process_starts_total{") == 3
            starts = [line for line in text.splitlines() if "process_starts_total{" in line]
            assert sum(int(line.rpartition(" ")[2]) for line in starts) == 5


def raw_metrics(url: str, key: str = "") -> str:
    asked = Request(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"})
    with urlopen(asked, timeout=20) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_stop_finishes_what_it_has(made: Path, workers: str) -> None:
    with served(made, "--workers", workers) as service:
        service.wait("writer" if workers == "1" else "alone")
        with vecstore.connect(service.url, patience_s=0) as store:
            docs = store.collection("docs")
            base = 10**6 * (1 + int(workers))
            load = Load(3, lambda n: docs.upsert([base + n], vector_of(n)[None]))
            load.wait(20)
            service.top.send_signal(signal.SIGTERM)
            assert service.top.wait(60) == 0
            load.stop()
        assert {type(error) for error in load.failed} <= {vecstore.UnavailableError}
        assert not psutil.Process().children(recursive=True) or all(
            child.status() == psutil.STATUS_ZOMBIE or child.pid != service.top.pid
            for child in psutil.Process().children(recursive=True)
        )
    with vecstore.open(made) as store:  # the writer's lock is free
        hits = store.collection("docs").get([base + number for _, _, number in load.done])
        assert all(hits)
        assert store.check() == []


def test_no_process_outlives_the_one_above(made: Path) -> None:
    with served(made, "--workers", "2") as service:
        service.wait("reader", 2)
        children = psutil.Process(service.top.pid).children()
        assert len(children) == 3
        os.kill(service.top.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []


def test_a_write_counts_once(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    command = [sys.executable, "-m", "vecstore.cli", "keys", "add", str(made), "--role", "admin"]
    command += ["--keys", str(file), "--calls-at-once", "1"]
    key = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    with served(made, "--workers", "1", "--keys", str(file)) as service:
        with vecstore.connect(service.url, key.strip(), patience_s=0) as store:
            store.collection("docs").upsert([3], vector_of(3)[None])  # not limited by its own echo
        text = raw_metrics(service.url, key.strip())
        assert 'vecstore_calls_total{verb="upsert",status="2xx"} 1\n' in text
        calls = [line["verb"] for line in service.lines("call")]
        assert calls == ["upsert"]


def test_a_socket(made: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "s"
        with served(made, "--socket", str(place), "--workers", "1") as service:
            assert service.url == f"unix:{place}"
            assert place.stat().st_mode & 0o777 == 0o600
            with vecstore.connect(service.url) as store:
                docs = store.collection("docs")
                docs.upsert([5], np.ones((1, DIM)))
                assert docs.get(5) is not None
            again = subprocess.run(
                [sys.executable, "-m", "vecstore.cli", "serve", f"{made}x", "--socket", str(place)],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
            assert again.returncode == 2
            assert "Another process listens" in again.stderr
        assert not place.exists()


def test_what_a_writer_wrote_every_reader_sees_at_once(made: Path) -> None:
    with served(made, "--workers", "2") as service:
        service.wait("reader", 2)
        stores = [vecstore.connect(service.url) for _ in range(6)]
        views = [store.collection("docs") for store in stores]
        for number in range(500, 520):
            views[number % 6].upsert([number], vector_of(number)[None])
            for docs in views:
                assert docs.get(number) is not None
            views[number % 6].delete([number])
            for docs in views:
                assert docs.get(number) is None
        for store in stores:
            store.close()


def test_a_store_that_somebody_writes_to_is_refused(made: Path) -> None:
    with vecstore.open(made):
        done = subprocess.run(
            [sys.executable, "-m", "vecstore.cli", "serve", str(made), "--port", "0"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
    assert done.returncode == 1
    assert "Another writer" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_one_process_is_started_again(made: Path) -> None:
    with served(made) as service, vecstore.connect(service.url) as store:
        docs = store.collection("docs")
        for kill in range(2):
            os.kill(service.wait("alone", 1 + kill)[-1], signal.SIGKILL)
            docs.upsert([100 + kill], np.ones((1, DIM)))
        assert docs.get([100, 101]) == [docs.get(100), docs.get(101)] != [None, None]
        assert 'vecstore_process_starts_total{process="0"} 3' in raw_metrics(service.url)


def test_a_key_press_in_a_terminal_ends_them_in_order(made: Path) -> None:
    """Control-C comes to all processes at once; only the one above acts on it."""
    with served(made, "--workers", "1") as service, vecstore.connect(service.url) as store:
        service.wait("reader")
        [writer] = service.wait("writer")
        os.kill(writer, signal.SIGINT)
        for number in range(3):
            store.collection("docs").upsert([200 + number], np.ones((1, DIM)))
            time.sleep(0.15)  # uvicorn looks every 0.1 s whether it is to stop
        assert service.lines("stopped") == service.lines("process ended") == []
        service.top.send_signal(signal.SIGINT)
        assert service.top.wait(60) == 0
        assert [line["part"] for line in service.lines("stopped")] == ["reader", "writer"]


def test_a_stop_just_after_a_start_is_heard(made: Path) -> None:
    with served(made, "--workers", "2") as service:
        began = time.monotonic()
        service.top.send_signal(signal.SIGTERM)
        assert service.top.wait(60) == 0
        assert time.monotonic() - began < 25, "nobody waits until the time for a stop is over"


def test_connections_leave_files_for_the_store(made: Path) -> None:
    limited = f"ulimit -n 200; exec {sys.executable} -m vecstore.cli serve {made} --port 0"
    with subprocess.Popen(
        ["sh", "-c", limited], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as top:
        assert top.stdout is not None
        address = top.stdout.readline().strip().rpartition(" at ")[2]
        with vecstore.connect(address, patience_s=60) as store:
            assert store.collections() == ["docs"]  # it is ready
        url = urlsplit(address)
        opened = [socket.create_connection((url.hostname, url.port), 20) for _ in range(150)]
        try:
            statuses = []
            for one in opened:
                one.settimeout(20)
                with suppress(OSError):  # sent away, and closed
                    one.sendall(
                        b"GET /v1/collections/docs/stats HTTP/1.1\r\nhost: localhost\r\n\r\n"
                    )
                statuses.append(one.recv(65_536).split(b" ")[1])
            assert statuses.count(b"200") + statuses.count(b"503") == 150
            assert 50 <= statuses.count(b"200") <= 100
        finally:
            for one in opened:
                one.close()
            top.terminate()
            top.communicate(timeout=60)


def test_what_a_killed_stream_left_is_removed(made: Path) -> None:
    left, foreign = (made.parent / f".{name}.stream-x1" for name in (made.name, "other"))
    for folder in (left, foreign):
        (folder / "store").mkdir(parents=True)
    with served(made):
        assert not left.exists()
        assert foreign.exists()
