"""Raw HTTP: forms of bodies, statuses, limits, streams; what a caller without our client meets."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import socket
import struct
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest

import vecstore
from tests.cli_checks import run_json
from tests.service.checks import Running, running
from vecstore.service import routes
from vecstore.service.forward import Forwarder
from vecstore.wire.verbs import VERBS

DIM = 4
ONE = [1, 0, 0, 0]
UNITS = np.eye(DIM, dtype=np.float32)
DOCS = "/v1/collections/docs"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with low limits and three rows."""
    folder = tmp_path_factory.mktemp("routes")
    (folder / "backups").mkdir()
    with running(
        folder / "store",
        body_bytes_max=100_000,
        body_timeout_s=0.5,
        head_timeout_s=0.5,
        k_max=50,
        rows_max=60,
        answers_max=500,
        backups=folder / "backups",
    ) as service:
        assert service.call("PUT", DOCS, {"dim": DIM}).status == 200
        rows = {"ids": ["a", "b", "c"], "vectors": UNITS[:3].tolist()}
        more = {"metadata": [{"n": 1}, None, {"n": 3}], "documents": ["x", None, None]}
        assert service.call("POST", f"{DOCS}/upsert", rows | more).json == {"done": True}
        yield service


def test_a_query_as_anybody_writes_it(small: Running) -> None:
    answer = small.call("POST", f"{DOCS}/query", {"vector": [1, 0, 0, 0], "k": 2})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    nearest = answer.json["hits"][0]
    assert nearest == {
        "id": "a", "distance": 0.0, "metadata": {"n": 1}, "document": None, "vector": None,
        "tenant": None,
    }  # fmt: skip


def test_vectors_as_base64_and_msgpack(small: Running) -> None:
    raw = UNITS[1].tobytes()
    given = {"vector": base64.b64encode(raw).decode(), "k": 1, "include": ["vector"]}
    assert small.call("POST", f"{DOCS}/query", given).json["hits"][0]["vector"] == UNITS[1].tolist()
    headers = {"Accept": "application/json; vectors=base64"}
    answer = small.call("POST", f"{DOCS}/query", given, headers=headers)
    assert base64.b64decode(answer.json["hits"][0]["vector"]) == raw
    packed = msgspec.msgpack.encode({"vectors": UNITS[:2].tobytes(), "k": 2})
    headers = {"Content-Type": "application/msgpack"}
    answer = small.call("POST", f"{DOCS}/search", packed, headers=headers)
    assert answer.headers["content-type"] == "application/msgpack"
    found = msgspec.msgpack.decode(answer.body)
    assert [row[0] for row in found["ids"]] == ["a", "b"]
    assert np.frombuffer(found["distances"], "<f4").reshape(2, 2)[:, 0].tolist() == [0, 0]
    assert small.call("POST", f"{DOCS}/search", packed, headers=headers | {
        "Accept": "application/json"
    }).json["ids"][1][0] == "b"  # fmt: skip


def test_places_without_an_answer_are_null(small: Running) -> None:
    answer = small.call("POST", f"{DOCS}/search", {"vectors": [[1, 0, 0, 0]], "k": 5}).json
    assert answer["ids"][0][3:] == [None, None]
    assert answer["distances"][0][3:] == [None, None]


def test_names_may_hold_anything(small: Running) -> None:
    with small.connect() as store:
        for name in ("a/b", "..", "ü %2F ?&=#", "query", "\n"):
            docs = store.collection(name, dim=2, tenants=True)
            docs.tenant("x/y&tenant=z ").upsert([1], [[0, 1]])
            assert docs.tenants() == ["x/y&tenant=z "]
            assert store.collection(name).tenant("x/y&tenant=z ").get(1).tenant == "x/y&tenant=z "
            docs.drop_tenant("x/y&tenant=z ")
            store.drop(name)


WRONG: list[tuple[str, bytes, str]] = [
    ("cut short", b'{"vector": [1, 0', "malformed"),
    ("empty", b"", "malformed"),
    ("no object", b"[]", "Expected `object`"),
    ("no UTF-8", b'{"vector": [1,0,0,0], "where": {"a": "\xff"}}', "malformed"),
    ("wrong type", b'{"vector": {"a": 1}}', "vector"),
    ("NaN", b'{"vector": [NaN, 0, 0, 0]}', "malformed"),
    ("beyond float64", b'{"vector": [1e999, 0, 0, 0]}', "out of range"),
    ("beyond float32", b'{"vector": [1e300, 0, 0, 0]}', "not finite"),
    ("huge int", b'{"vector": [1,0,0,0], "k": ' + b"9" * 5_000 + b"}", "k"),
    ("k of 0", b'{"vector": [1,0,0,0], "k": 0}', "k"),
    ("k as text", b'{"vector": [1,0,0,0], "k": "3"}', "k"),
    ("too deep", b'{"vector": [1,0,0,0], "where": ' + b'{"$not":' * 9_000 + b"1", "nested"),
    ("deep where", b'{"vector": [1], "where": ' + b'{"$not":' * 99 + b"1" + b"}" * 100, "deeper"),
    ("wrong dim", b'{"vector": [1, 0]}', "2 dimensions"),
    ("cut base64", b'{"vector": "AAAAA"}', "base64"),
    ("bytes of a part", b'{"vector": "AAAA"}', "3 bytes"),
    ("unknown field", b'{"vector": [1,0,0,0], "kk": 3}', "kk"),
    ("operator", b'{"vector": [1,0,0,0], "where": {"a": {"$bad": 1}}}', "$bad"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG]
)
def test_wrong_bodies_are_told(small: Running, body: bytes, words: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = small.call("POST", f"{DOCS}/query", body, headers=headers)
    assert answer.status == 400
    assert words in answer.error[1]
    assert "Traceback" not in answer.error[1]
    assert answer.json["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("form", ["application/msgpack", "application/json"])
def test_noise_is_told(small: Running, form: str) -> None:
    rng = np.random.default_rng(0)
    good = msgspec.msgpack.encode({"vector": UNITS[0].tobytes(), "k": 2})
    for i in range(300):
        body = bytearray(good if i % 2 else rng.bytes(int(rng.integers(1, 40))))
        body[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
        answer = small.call("POST", f"{DOCS}/query", bytes(body), headers={"Content-Type": form})
        assert answer.status in (200, 400), (bytes(body), answer)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/nowhere", None, 404, "InvalidArgumentError"),
        ("GET", f"{DOCS}/query", None, 405, "InvalidArgumentError"),
        ("PATCH", "/", None, 405, "InvalidArgumentError"),
        ("GET", "/v1/collections/%ff", None, 400, "InvalidArgumentError"),
        ("GET", "/v1/collections/none", None, 404, "CollectionNotFoundError"),
        ("GET", f"{DOCS}?tenant=a", None, 400, "InvalidArgumentError"),
        ("POST", f"{DOCS}/count?who=a", {}, 400, "InvalidArgumentError"),
        ("POST", f"{DOCS}/count?tenant=a", {}, 400, "TenantRequiredError"),
        ("GET", "/v1/collections", {}, 400, "InvalidArgumentError"),
        ("PUT", DOCS, {"dim": 7}, 409, "CollectionMismatchError"),
        ("PUT", DOCS, {"metric": "l3"}, 400, "InvalidArgumentError"),
        ("PUT", "/v1/collections/", {"dim": 3}, 400, "InvalidArgumentError"),
        ("POST", f"{DOCS}/add", {"ids": "a", "vectors": [0, 0, 0, 1]}, 409, "DuplicateIdError"),
        ("POST", f"{DOCS}/vectors", {"ids": ["zz"]}, 404, "UnknownIdError"),
        ("POST", f"{DOCS}/delete", {}, 400, "InvalidArgumentError"),
        ("POST", f"{DOCS}/delete", {"where": {}}, 400, "FilterError"),
        ("POST", f"{DOCS}/upsert", {"ids": [], "vectors": [[1], []]}, 400, "InvalidVectorError"),
        ("POST", f"{DOCS}/get", {"ids": [True]}, 400, "InvalidArgumentError"),
        ("POST", f"{DOCS}/get", {"ids": list("a" * 61)}, 413, "RequestTooLargeError"),
        ("POST", f"{DOCS}/search", {"vectors": [ONE] * 11, "k": 50}, 413, "RequestTooLargeError"),
        ("POST", f"{DOCS}/query", {"vector": "A" * 200_000}, 413, "RequestTooLargeError"),
        ("POST", f"{DOCS}/tune", {"ram_bytes": -1}, 400, "InvalidArgumentError"),
    ],
)  # fmt: skip
def test_statuses(
    small: Running, method: str, path: str, body: Any, status: int, kind: str
) -> None:
    answer = small.call(method, path, body)
    assert (answer.status, answer.error[0]) == (status, kind)
    if status == 405:
        assert answer.headers["allow"]


def test_a_type_must_be_named(small: Running) -> None:
    for given in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {} if given is None else {"Content-Type": given}
        answer = small.call("POST", f"{DOCS}/count", b"{}", headers=headers)
        assert answer.status == 415


def test_packed_bodies(small: Running) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps({"vector": [0, 1, 0, 0], "k": 1}).encode())
    assert small.call("POST", f"{DOCS}/query", body, headers=headers).json["hits"][0]["id"] == "b"
    for broken in (body[:-9], b"no gzip"):
        assert small.call("POST", f"{DOCS}/query", broken, headers=headers).status == 400
    bomb = gzip.compress(b" " * 50_000_000)
    assert small.call("POST", f"{DOCS}/query", bomb, headers=headers).status == 413
    parts = gzip.compress(b'{"vector": [0, 1,') + gzip.compress(b' 0, 0], "k": 1}')
    headers = headers | {"Content-Encoding": "GZIP"}
    assert small.call("POST", f"{DOCS}/query", parts, headers=headers).json["hits"][0]["id"] == "b"
    assert small.call("POST", f"{DOCS}/query", parts + b"x", headers=headers).status == 400


def test_what_is_unpacked_is_counted(tmp_path: Path) -> None:
    with running(tmp_path / "store", bodies_bytes_max=150_000) as service:
        body = gzip.compress(b" " * 200_000)
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        path = "/v1/collections/none/count"
        assert service.call("POST", path, body, headers=headers).status == 503
        assert service.process.service.bodies_bytes == 0


# --- connections ------------------------------------------------------------------------------


def raw_socket(service: Running) -> socket.socket:
    parts = urlsplit(service.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def read_all(made: socket.socket) -> bytes:
    got = b""
    while chunk := made.recv(65_536):
        got += chunk
    return got


HEAD = (
    b"POST /v1/collections/docs/query HTTP/1.1\r\nhost: localhost\r\n"
    b"content-type: application/json\r\n"
)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v1/coll", b"408"),
        (HEAD + b"content-length: 100\r\n\r\n{", b"408"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{", b"408"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, b"431"),
        (b"GET /" + b"a" * 70_000, b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
    ],
)
def test_slow_and_endless_callers_are_let_go(small: Running, sent: bytes, status: bytes) -> None:
    with raw_socket(small) as made:
        made.sendall(sent)
        began = time.monotonic()
        got = read_all(made)
        assert got.split(b" ")[1] == status, got[:80]
        assert time.monotonic() - began < 5
    assert small.call("GET", "/health/ready").status == 200


def test_an_answer_reaches_who_still_sends(small: Running) -> None:
    """What comes after an early answer is thrown away, and not answered with a reset."""
    large = HEAD + b"content-length: 3000000\r\n"
    for head in (large + b"\r\n", large + b"connection: close\r\n\r\n"):
        with raw_socket(small) as made:
            made.sendall(head)
            assert made.recv(65_536).split(b" ")[1] == b"413"
            for _ in range(60):
                made.sendall(b"x" * 50_000)
                time.sleep(0.0005)
            if b"close" not in head:  # the next call is answered as ever
                made.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert made.recv(15) == b"HTTP/1.1 200 OK"
                made.shutdown(socket.SHUT_WR)
            read_all(made)
    for sent, status in ((b"GET /" + b"a" * 40_000, b"431"), (b"\x16\x03\x01\x02", b"400")):
        with raw_socket(small) as made:
            made.sendall(sent)
            assert made.recv(65_536).split(b" ")[1] == status
            for _ in range(60):
                made.sendall(b"x" * 50_000)
                time.sleep(0.0005)
            assert read_all(made) == b""


def test_who_is_sent_away_has_the_answer(tmp_path: Path) -> None:
    with running(tmp_path / "store", connections_max=1) as service, raw_socket(service) as first:
        first.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert first.recv(1)
        with raw_socket(service) as one:
            one.sendall(HEAD + b"content-length: 3000000\r\n\r\n" + b"x" * 1_000_000)
            assert b" 503 " in read_all(one)


def open_connections(service: Running) -> int:
    return len(service.process.server.server_state.connections)


def wait_for_connections(service: Running, wanted: int) -> None:
    until = time.monotonic() + 10
    while open_connections(service) > wanted:
        assert time.monotonic() < until, f"{open_connections(service)} are open"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "more",
    [b"\r\n", HEAD + b"content-length: 900000\r\n\r\n{"],
    ids=["an empty line", "a part of a body that is too large"],
)
def test_a_connection_that_does_nothing_more_is_closed(tmp_path: Path, more: bytes) -> None:
    options = {"idle_timeout_s": 0.3, "body_timeout_s": 0.3, "body_bytes_max": 1_000}
    with running(tmp_path / "store", **options) as service, raw_socket(service) as made:
        made.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert made.recv(15) == b"HTTP/1.1 200 OK"
        time.sleep(0.05)  # until the rest of the answer is there
        made.sendall(more)
        time.sleep(0.05)
        if len(more) > 2:
            made.sendall(b"x")
        read_all(made)
        wait_for_connections(service, 0)


@pytest.mark.parametrize("closes", [b"", b"connection: close\r\n"])
def test_answers_that_nobody_takes_are_let_go(tmp_path: Path, closes: bytes) -> None:
    with running(tmp_path / "store", body_timeout_s=0.3, idle_timeout_s=0.3) as service:
        with service.connect() as store:
            store.collection("docs", dim=4_000).load(np.ones((300, 4_000), np.float32))
        body = json.dumps({"ids": list(range(300))}).encode()
        head = HEAD.replace(b"/query", b"/vectors") + b"content-length: %d\r\n" % len(body)
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        parts = urlsplit(service.url)
        made.connect((parts.hostname, parts.port))
        with made:
            for _ in range(3):
                made.sendall(head + closes + b"\r\n" + body)
            assert made.recv(15) == b"HTTP/1.1 200 OK"
            wait_for_connections(service, 0)
            until = time.monotonic() + 10
            while service.process.service.metrics.running:
                assert time.monotonic() < until, "a call waits for its caller"
                time.sleep(0.01)


def test_fields_behind_a_body_are_none_of_the_head(small: Running) -> None:
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    rest = b"host: evil.example\r\nx-request-id: from-behind\r\n"
    with raw_socket(small) as made:
        made.sendall(chunked + b'15\r\n{"vector": [1,0,0,0]}\r\n0\r\n' + rest + b"\r\n")
        got = made.recv(65_536)
        assert got.startswith(b"HTTP/1.1 200")
        assert b"from-behind" not in got
    with raw_socket(small) as made:
        made.sendall(chunked + b"2\r\n{}\r\n0\r\n" + b"x: 0123456789\r\n" * 5_000)
        assert read_all(made).split(b" ")[1] == b"431"


@pytest.mark.parametrize("name", [b"host", b"authorization", b"idempotency-key"])
def test_what_is_decided_by_comes_once(small: Running, name: bytes) -> None:
    head = b"GET /v1/collections HTTP/1.1\r\nhost: localhost\r\nx: 1\r\nx: 2\r\n"
    for count, status in ((1, b"200"), (2, b"400")):
        more = b"".join(name + b": localhost\r\n" for _ in range(count - (name == b"host")))
        with raw_socket(small) as made:
            made.sendall(head + more + b"\r\n")
            assert made.recv(65_536).split(b" ")[1] == status


def test_long_paths_are_not_remembered(small: Running) -> None:
    kept = routes._kept_route.cache_info().currsize
    for letter in "abc":
        assert small.call("GET", f"/v1/collections/{letter * 2_000}").status == 400
        assert small.call("POST", f"{DOCS}/count?tenant={letter * 2_000}", {}).status == 400
    assert routes._kept_route.cache_info().currsize <= kept + 1
    assert routes._kept_tenants.cache_info().currsize == 0 or kept


@pytest.mark.parametrize("passes_on", [False, True])
def test_a_body_that_trickles_in(tmp_path: Path, passes_on: bool) -> None:
    """All of a body has one time limit, wherever it is going."""
    with running(tmp_path / "store", body_timeout_s=0.5) as service:
        if passes_on:
            service.process.service.forwarder = Forwarder(f"{tmp_path / 'nowhere'}")
        with raw_socket(service) as made:
            made.sendall(HEAD.replace(b"/query", b"/upsert") + b"content-length: 100\r\n\r\n")
            began = time.monotonic()
            made.settimeout(0.1)
            got = b""
            while not got and time.monotonic() - began < 8:
                made.sendall(b"{")
                with contextlib.suppress(TimeoutError):
                    got = made.recv(65_536)
            assert got.split(b" ")[1] == b"408"


def test_a_caller_that_leaves_in_the_middle(small: Running) -> None:
    for _ in range(20):
        made = raw_socket(small)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        made.close()
    assert small.call("GET", DOCS).status == 200


def test_a_thousand_connections(small: Running) -> None:
    made = [raw_socket(small) for _ in range(1_000)]
    try:
        for one in made[::50]:
            one.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert one.recv(15) == b"HTTP/1.1 200 OK"
        assert small.call("POST", f"{DOCS}/count", {}).json == {"count": 3}
    finally:
        for one in made:
            one.close()


def test_too_many_connections_are_sent_away(tmp_path: Path) -> None:
    with running(tmp_path / "store", connections_max=5) as service:
        made = [raw_socket(service) for _ in range(5)]
        try:
            for one in made:  # accepted, not only waiting to be
                one.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert one.recv(1)
            with raw_socket(service) as one:
                assert b" 503 " in read_all(one)
        finally:
            for one in made:
                one.close()


# --- streams ----------------------------------------------------------------------------------


def test_export_and_import(small: Running, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with small.connect() as store:
        docs = store.collection("full", dim=DIM, metric="cosine")
        vectors = rng.normal(size=(1_300, DIM)).astype(np.float32)
        facts = [None if i % 3 else {"n": i, "tags": ["ü", i / 7]} for i in range(1_300)]
        texts = [None if i % 2 else f"text {i}\n" for i in range(1_300)]
        for start in range(0, 1_300, 50):
            part = slice(start, start + 50)
            ids = list(range(start, start + 50))
            docs.upsert(ids, vectors[part], facts[part], texts[part])
        docs.delete([3, 700])
        answer = small.call("GET", "/v1/collections/full/export")
        assert answer.headers["content-type"] == "application/gzip"
        lines = [json.loads(line) for line in gzip.decompress(answer.body).splitlines()]
        assert [line["id"] for line in lines] == [i for i in range(1_300) if i not in (3, 700)]
        # It is what `vecstore load` reads ...
        file = tmp_path / "full.jsonl.gz"
        file.write_bytes(answer.body)
        assert (
            run_json("load", tmp_path / "s", file, "-c", "c", "--metric", "cosine")["rows"] == 1_298
        )
        # ... and what import reads, packed or not.
        store.collection("copy", dim=DIM, metric="cosine")
        for body in (answer.body, gzip.decompress(answer.body)):
            told = small.call("POST", "/v1/collections/copy/import", body)
            assert told.json == {"rows": 1_298}
            copy = store.collection("copy")
            assert copy.count() == 1_298
            ids = [line["id"] for line in lines]
            for first in range(0, 1_298, 59):
                part = ids[first : first + 59]
                assert (copy.vectors(part) == docs.vectors(part)).all()
                assert copy.get(part) == docs.get(part)
        store.drop("full")
        store.drop("copy")


def test_export_of_a_tenant_is_what_it_owns(small: Running) -> None:
    with small.connect() as store:
        notes = store.collection("notes", dim=2, tenants=True)
        notes.tenant("a").upsert([1, 2], [[0, 1], [1, 0]])
        notes.tenant("b").upsert([5], [[0, 1]])
        notes.tenant("b").grant([5], to="a")
        path = "/v1/collections/notes/export"
        assert small.call("GET", path).error[0] == "TenantRequiredError"
        assert small.call("GET", f"{path}?tenant=a&tenant=b").error[0] == "InvalidArgumentError"
        packed = small.call("GET", f"{path}?tenant=a").body
        lines = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
        assert lines == [
            {"id": 1, "vector": [0, 1], "tenant": "a"},
            {"id": 2, "vector": [1, 0], "tenant": "a"},
        ]
        assert gzip.decompress(small.call("GET", f"{path}?tenant=nobody").body) == b""
        store.drop("notes")


def test_a_wrong_line_is_named_and_what_came_before_stays(small: Running) -> None:
    with small.connect() as store:
        copy = store.collection("lines", dim=2)
        good = [json.dumps({"id": i, "vector": [i, 1]}) for i in range(600)]
        for bad, words in (
            ('{"id": 1', "Line 602"),
            ('{"id": 1, "vector": [1, 2, 3]}', "dimensions"),
            ('{"id": 1, "vector": [1, 1e999]}', "Line 602"),
        ):
            body = "\n".join([*good[:300], "", *good[300:], bad]).encode()
            answer = small.call("POST", "/v1/collections/lines/import", body)
            assert answer.status == 400
            assert words in answer.error[1]
            assert "512 rows before it were stored" in answer.error[1]
            assert copy.count() == 512
        assert small.call("POST", "/v1/collections/lines/import", b"\x1f\x8bxx").status == 400
        packed = [gzip.compress(f"{line}\n".encode()) for line in good]
        answer = small.call("POST", "/v1/collections/lines/import", b"".join(packed))
        assert answer.json == {"rows": 600}, "every member of a gzip file is read"
        for cut in (b"".join(packed)[:-4], packed[0] + b"more"):
            assert small.call("POST", "/v1/collections/lines/import", cut).status == 400
        assert small.call("POST", "/v1/collections/lines/import", b"").json == {"rows": 0}
        store.drop("lines")


def test_backups(small: Running, tmp_path: Path) -> None:
    with small.connect() as store:
        store.backup(tmp_path / "copy")
        with pytest.raises(vecstore.InvalidArgumentError, match="There is something"):
            store.backup(tmp_path / "copy")
    name = small.call("POST", "/v1/backups").json["name"]
    assert small.options.backups is not None
    for path in (tmp_path / "copy", small.options.backups / name):
        with vecstore.open(path, "r") as copy:
            assert copy.check() == []
            assert copy.collection("docs").count() == 3
    # A client can write its own.
    with tarfile.open(fileobj=io.BytesIO(small.call("GET", "/v1/backup").body)) as tar:
        assert "VECSTORE" in tar.getnames()
    left = {path.name for path in small.options.backups.iterdir()}
    assert left == {name}, "a stream leaves nothing behind"


# --- figures ----------------------------------------------------------------------------------


def test_metrics(small: Running) -> None:
    before = figures(small)
    small.call("POST", f"{DOCS}/query", {"vector": [1, 0, 0, 0]})
    small.call("POST", f"{DOCS}/query", {"vector": [1, 0]})
    after = figures(small)
    calls = 'vecstore_calls_total{verb="query",status="%s"}'
    assert after[calls % "2xx"] - before.get(calls % "2xx", 0) == 1
    assert after[calls % "4xx"] - before.get(calls % "4xx", 0) == 1
    count = 'vecstore_call_seconds_count{verb="query"}'
    last = 'vecstore_call_seconds_bucket{verb="query",le="+Inf"}'
    assert after[count] == after[last] == before.get(count, 0) + 2
    assert after['vecstore_collection_rows{collection="docs"}'] == 3
    assert after["vecstore_disk_bytes"] > 0
    assert after["vecstore_ready"] == 1


def figures(service: Running) -> dict[str, float]:
    lines = service.call("GET", "/metrics").body.decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
    }


def test_the_document_names_every_verb(small: Running) -> None:
    document = small.call("GET", "/openapi.json").json
    named = {
        (method.upper(), path, operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert named == {(verb.method, verb.path, verb.name) for verb in VERBS.values()}


def test_activity(small: Running) -> None:
    small.call("POST", f"{DOCS}/query", {"vector": [1, 0, 0, 0]})
    activity = small.call("GET", "/v1/activity").json["stats"]
    assert sum(map(sum, activity["counts"]["query"])) >= 1


def test_map(small: Running, service: Running) -> None:
    assert small.call("GET", f"{DOCS}/map").json["stats"]["rows_fresh"] == 3
    with service.connect() as store:
        docs = store.collection("many", dim=8)
        docs.load(np.random.default_rng(0).normal(size=(5_000, 8)))
        shown = service.call("GET", "/v1/collections/many/map").json["stats"]
        assert len(shown["x"]) == len(shown["y"]) == len(shown["rows"]) == shown["postings"] > 10
        assert sum(shown["rows"]) >= shown["rows_indexed"] == 5_000
        assert max(map(abs, shown["x"] + shown["y"])) == 1
        assert 0 < shown["variance"] < 1
        store.drop("many")


def test_an_export_that_nobody_takes_is_let_go(tmp_path: Path) -> None:
    with running(tmp_path / "store", body_timeout_s=0.5) as service:
        with service.connect() as store:
            docs = store.collection("docs", dim=256)
            docs.load(np.random.default_rng(0).normal(size=(6_000, 256)).astype(np.float32))
        head = b"GET /v1/collections/docs/export HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for leaves in (True, False):
            parts = urlsplit(service.url)
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
            made.connect((parts.hostname, parts.port))
            made.sendall(head)
            assert made.recv(100)
            assert figures(service)["vecstore_calls_waiting"] >= 1
            if leaves:
                made.close()
            until = time.monotonic() + 10
            while figures(service)["vecstore_calls_running"] > 1:  # that of the figures itself
                assert time.monotonic() < until, "the export goes on"
                time.sleep(0.02)
            assert figures(service)["vecstore_transactions_behind"] == 0
            made.close()


def test_streams_do_not_hold_up_maintenance(tmp_path: Path) -> None:
    with running(tmp_path / "store") as service:
        with service.connect() as store:
            docs = store.collection("docs", dim=256)
            docs.load(np.random.default_rng(0).normal(size=(6_000, 256)).astype(np.float32))
        head = b"GET /v1/collections/docs/export HTTP/1.1\r\nhost: localhost\r\n\r\n"
        taken = []
        for _ in range(4):
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
            parts = urlsplit(service.url)
            made.connect((parts.hostname, parts.port))
            made.sendall(head)
            assert made.recv(100)
            taken.append(made)
        assert service.call("POST", "/v1/check", timeout_s=10).json == {"violations": []}
        assert service.process.service.runner.waiting >= 4, "the exports go on"
        for made in taken:
            made.close()
