"""The client beside the library: the same verbs, and what only a client can meet."""

from __future__ import annotations

import inspect
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import vecstore
from tests.service.checks import Running, running
from tests.store_checks import failure
from vecstore import results
from vecstore.client import RemoteTenant, RemoteTenantUnion
from vecstore.wire import bodies

PAIRS = [
    (vecstore.Store, vecstore.RemoteStore, {"path"}),
    (vecstore.Collection, vecstore.RemoteCollection, set()),
    (vecstore.Tenant, RemoteTenant, set()),
    (vecstore.TenantUnion, RemoteTenantUnion, set()),
]


@pytest.mark.parametrize(
    ("own", "remote", "local"), PAIRS, ids=lambda one: getattr(one, "__name__", "")
)
def test_the_verbs_are_the_same(own: Any, remote: Any, local: set[str]) -> None:
    def verbs(kind: Any) -> dict[str, Any]:
        return {name: getattr(kind, name) for name in dir(kind) if name[0] != "_"}

    assert verbs(own).keys() - local == verbs(remote).keys()
    for name, verb in verbs(remote).items():
        assert isinstance(getattr(own, name), property) == isinstance(verb, property), name
        assert (verb.__doc__ or "").strip(), f"{name} has no docstring"
        if inspect.isfunction(verb):
            mine, theirs = inspect.signature(getattr(own, name)), inspect.signature(verb)
            assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
                (p.name, p.kind, p.default) for p in theirs.parameters.values()
            ], name


@pytest.mark.parametrize(
    ("own", "body"),
    [
        (results.Hit, bodies.HitBody),
        (results.Result, bodies.ResultBody),
        (results.Explanation, bodies.ExplanationBody),
        (results.Violation, bodies.ViolationBody),
    ],
)
def test_what_is_returned_has_the_same_fields(own: Any, body: Any) -> None:
    assert own.__struct_fields__ == body.__struct_fields__


def test_a_client_needs_no_server_and_no_kernels() -> None:
    code = (
        "import sys, vecstore\n"
        "vecstore.connect('http://127.0.0.1:1', 'vs_a_b')\n"
        "heavy = {'faiss', 'lmdb', 'numba', 'uvicorn', 'uvloop', 'httptools', 'asyncio'}\n"
        "sys.exit(f'{heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "127.0.0.1:7878", "http://", "unix:", None, "http://x/y"]
)
def test_wrong_urls(url: Any) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match="url is"):
        vecstore.connect(url)


def test_wrong_arguments(service: Running) -> None:
    for options in ({"encoding": "xml"}, {"timeout_s": -1}, {"patience_s": "3"}):
        with pytest.raises(vecstore.InvalidArgumentError):
            vecstore.connect("http://127.0.0.1:1", **options)
    with pytest.raises(vecstore.InvalidArgumentError, match="key"):
        vecstore.connect("http://127.0.0.1:1", "a\r\nx: y")
    with service.connect() as store:
        for dim in (True, "3", 2.5, -1, 0, 10**9):
            with pytest.raises(vecstore.InvalidArgumentError):
                store.collection("x", dim=dim)


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for where in (url, "unix:/nowhere/at/all"):
        store = vecstore.connect(where, patience_s=0)
        with pytest.raises(vecstore.UnavailableError, match="cannot be reached"):
            store.collections()
        store.close()
    with pytest.raises(vecstore.StoreClosedError):
        store.collections()


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives one answer a connection, whatever it is asked, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                made, _ = listening.accept()
                with made:
                    made.recv(65_536)
                    made.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


NAMES = http("200 OK", b'{"collections": ["a"]}', "Content-Type: application/json")


def test_what_is_lost_or_sent_away_is_tried_again() -> None:
    busy = http("503 Busy", b"", "Retry-After: 0")
    answers = (b"", busy, NAMES[:-5], b"garbage\r\n\r\n", NAMES)
    with answering(*answers) as url, vecstore.connect(url) as store:
        assert store.collections() == ["a"]


def test_a_refusal_is_told_whatever_was_lost_before() -> None:
    info = http(
        "200 OK",
        msgspec.json.encode(bodies.CollectionInfo("d", 1, "l2", False, "auto", "float32")),
        "Content-Type: application/json",
    )
    fault = bodies.FaultBody(bodies.Fault("DuplicateIdError", "Id 1 exists."))
    refused = http("409 Conflict", msgspec.json.encode(fault), "Content-Type: application/json")
    for answers in ([info, refused], [info, b"", refused]):
        with answering(*answers) as url, vecstore.connect(url) as store:
            docs = store.collection("d")
            with pytest.raises(vecstore.DuplicateIdError, match="Id 1 exists"):
                docs.add([1], [[0]])


def test_something_else_answers() -> None:
    for answer in (http("200 OK", b"<html>", "Content-Type: text/html"), http("502 Bad", b"x")):
        with answering(answer) as url, vecstore.connect(url) as store:
            assert failure(store.collections, vecstore.UnavailableError) is not None


def test_a_service_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with vecstore.connect(url, timeout_s=0.2) as store:
            assert failure(store.collections, vecstore.ServiceTimeoutError) is not None


def test_many_threads_and_a_fork(tmp_path: Path) -> None:
    with running(tmp_path / "store") as service, service.connect() as store:
        docs = store.collection("docs", dim=2)
        docs.upsert(range(50), np.random.default_rng(0).normal(size=(50, 2)))
        wrong: list[Any] = []

        def ask(first: int) -> None:
            for i in range(first, 50, 8):
                if docs.get(i).id != i:
                    wrong.append(i)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        child = os.fork()
        if not child:  # the connections are the parent's
            os._exit(0 if docs.get(7).id == 7 and docs.count() == 50 else 1)
        assert [docs.get(i).id for i in range(5)] == list(range(5))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("cut", [0, 300, 700, 2_000])
def test_a_backup_that_is_cut_off_leaves_nothing(tmp_path: Path, cut: int) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        part = tarfile.TarInfo("VECSTORE")
        part.size = 1_000
        tar.addfile(part, io.BytesIO(b"x" * 1_000))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-tar\r\n"
    head += b"transfer-encoding: chunked\r\n\r\n"
    raw = archive.getvalue()[:cut]
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            made, _ = listening.accept()
            with made:
                made.recv(65_536)
                made.sendall(head + (b"%x\r\n%s\r\n" % (cut, raw) if cut else b"1"))

        thread = threading.Thread(target=answer)
        thread.start()
        store = vecstore.connect(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with store, pytest.raises(vecstore.UnavailableError, match="cut off"):
            store.backup(tmp_path / "copy")
        thread.join()
    assert list(tmp_path.iterdir()) == []
