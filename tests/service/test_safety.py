"""Who may do what: keys, tenants, roles, browsers, limits, and what errors give away."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import vecstore
from tests.cli_checks import failed, run, run_json
from tests.service.checks import Answer, Running, running
from tests.store_checks import failure
from vecstore.service import transfer
from vecstore.service.keys import KeyFile, KeyRing
from vecstore.service.options import Options, keys_beside
from vecstore.service.supervisor import serve
from vecstore.wire.verbs import VERBS, Role, Verb

NOTES = "/v1/collections/notes"
DOCS = "/v1/collections/docs"
ONE = [1.0, 0.0]


@dataclass
class Guarded:
    """A service with keys: of tenant "a" in each role, and of nobody in each role."""

    service: Running
    keys: dict[str, str]

    def call(self, name: str | None, *args: Any, **options: Any) -> Answer:
        key = None if name is None else self.keys[name]
        return self.service.call(*args, key=key, **options)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    path = tmp_path_factory.mktemp("safety") / "store"
    with vecstore.open(path) as store:
        notes = store.collection("notes", dim=2, tenants=True)
        notes.tenant("a").upsert([1, 2], [[1, 0], [0, 1]], [{"of": "a"}, None])
        notes.tenant("globex").upsert(
            [1, 7], [[1, 0], [0, 1]], [{"of": "secret"}, None], ["secret", ""]
        )
        store.collection("plain", dim=2).upsert([1], [[1, 1]], [{"of": "secret"}])
    keys = {}
    for role in ("read", "write", "admin"):
        keys[f"a {role}"] = run_json("keys", "add", path, "--role", role, "--tenant", "a")["key"]
        keys[role] = run_json("keys", "add", path, "--role", role)["key"]
    with running(path) as service:
        yield Guarded(service, keys)


# --- keys -------------------------------------------------------------------------------------


def test_a_key_is_needed(guarded: Guarded) -> None:
    good = guarded.keys["read"]
    identity = good.split("_")[1]
    wrong = [
        None, "", "vs", "vs_", "vs__", f"vs_{identity}_", f"vs_{identity}_{'a' * 43}", good[:-1],
        good + "x", good.upper(), good.replace("vs_", "xx_"), "x" * 5_000,
    ]  # fmt: skip
    told = set()
    for key in wrong:
        answer = guarded.service.call("GET", NOTES, key=key)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        told.add(answer.error)
    assert len(told) == 1, "nothing tells what was wrong with a key"
    headers = {"Authorization": f"Basic {good}"}
    assert guarded.service.call("GET", NOTES, headers=headers).status == 401
    assert guarded.service.call("GET", NOTES, key=good).status == 200
    for verb in VERBS.values():
        assert guarded.service.call(verb.method, verb.path, b"").status == 401
    assert guarded.service.call("GET", "/metrics").status == 401
    for path in ("/", "/health/live", "/health/ready", "/openapi.json", "/docs"):
        assert guarded.service.call("GET", path).status == 200


def test_keys_come_and_go_while_the_service_runs(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with running(path) as service:
        assert service.call("GET", "/v1/collections").status == 200
        made = run_json("keys", "add", path, "--role", "read", "--note", "for tests")
        time.sleep(0.02)
        assert service.call("GET", "/v1/collections").status == 401
        assert service.call("GET", "/v1/collections", key=made["key"]).status == 200
        listed = run_json("keys", "list", path)["keys"]
        assert [(key["id"], key["note"]) for key in listed] == [(made["id"], "for tests")]
        assert "for tests" in run("keys", "list", path).stdout
        run("keys", "remove", path, made["id"])
        time.sleep(0.02)
        assert service.call("GET", "/v1/collections", key=made["key"]).status == 401
        keys_beside(path).unlink()
        time.sleep(0.02)
        assert service.call("GET", "/v1/collections").status == 401, "it does not open by itself"
    assert "no key" in failed("keys", "remove", path, "none", status=1)


def test_a_stream_ends_with_its_key(tmp_path: Path, monkeypatch: Any) -> None:
    """A key that is removed while its call goes on reads and writes no further."""
    path = tmp_path / "store"
    with vecstore.open(path) as store:
        docs = store.collection("docs", dim=2)
        docs.upsert([1], [ONE])
    file = KeyFile(keys_beside(path))
    began = []

    def add() -> str:
        _, key = file.add("admin")
        time.sleep(0.02)  # the file is looked at again
        return key

    def remove(key: str) -> None:
        file.remove(key.split("_")[1])
        time.sleep(0.02)

    other = add()

    with running(path) as service:
        for name, whole in (("_lines", f"{DOCS}/export"), ("_packed_backup", "/v1/backup")):
            for removed in (False, True):
                key = add()
                there = threading.Event()

                def pieces(
                    *args: Any,
                    key: str = key,
                    removed: bool = removed,
                    there: threading.Event = there,
                ) -> Iterator[bytes]:
                    yield b"one"
                    assert there.wait(20)
                    if removed:
                        remove(key)
                    yield b"two"

                monkeypatch.setattr(transfer, name, pieces)
                connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=20)
                connection.request("GET", whole, headers={"Authorization": f"Bearer {key}"})
                answer = connection.getresponse()
                assert answer.status == 200
                there.set()
                if not removed:
                    assert answer.read() == b"onetwo"
                else:
                    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as cut:
                        answer.read()
                    assert b"two" not in getattr(cut.value, "partial", b"")
                connection.close()
        key = add()

        def lines() -> Iterator[bytes]:
            for first in (1_000, 2_000):
                rows = range(first, first + transfer.BLOCK_ROWS)
                yield b"".join(b'{"id": %d, "vector": [1, 0]}\n' % row for row in rows)
                until = time.monotonic() + 10
                while not began and time.monotonic() < until:
                    counted = service.call("POST", f"{DOCS}/count", {}, key=other).json["count"]
                    if counted > 1:
                        began.append(counted)
                        remove(key)

        connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=20)
        headers = {"Authorization": f"Bearer {key}", "Transfer-Encoding": "chunked"}
        connection.request("POST", f"{DOCS}/import", lines(), headers, encode_chunked=True)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["type"]) == (
            401,
            "AccessDeniedError",
        )
        connection.close()
        assert began == [1 + transfer.BLOCK_ROWS]
        after = service.call("POST", f"{DOCS}/count", {}, key=other)
        assert after.json == {"count": 1 + transfer.BLOCK_ROWS}


def test_what_is_kept_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "store"
    key = run("keys", "add", path, "--role", "admin", "--tenant", "ü").stdout.strip()
    file = keys_beside(path)
    part = file.with_name(f"{file.name}.part")
    part.write_text("of somebody else")
    part.chmod(0o644)
    run("keys", "add", path, "--role", "read")
    secret = key.split("_", 2)[2]
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert KeyRing(file).find(key).tenant == "ü"
    for broken in ("", "{", '{"format": 1, "keys": [{}]}'):
        file.write_text(broken)
        ring = KeyRing(file)
        with pytest.raises(vecstore.AccessDeniedError):
            ring.find(key)
        with pytest.raises(vecstore.InvalidArgumentError, match="no file of keys"):
            KeyFile(file).add("read")


def test_an_id_that_the_limits_cannot_count_is_no_key(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "k")
    key, _ = file.add("read", calls_at_once=1)
    file.path.write_text(file.path.read_text().replace(key.id, "x" * 33))
    with pytest.raises(vecstore.InvalidArgumentError, match="no file of keys"):
        file.read()


def test_keys_made_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "k")
    threads = [threading.Thread(target=file.add, args=("read",)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.id for key in file.read()}) == 12


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_others_are_not_let_in_without_keys(tmp_path: Path, host: str) -> None:
    options = Options(path=tmp_path / "store", host=host, port=0)
    with pytest.raises(vecstore.InvalidArgumentError, match="there are no keys"):
        serve(options)
    assert not options.path.exists()
    assert "no keys" in failed("serve", options.path, "--host", host, status=2)


# --- tenants ----------------------------------------------------------------------------------


def example(verb: Verb) -> Any:
    """A body that a verb takes."""
    bodies: dict[str, Any] = {
        "query": {"vector": ONE}, "search": {"vectors": [ONE]}, "explain": {"vector": ONE},
        "get": {"ids": [1, 7]}, "vectors": {"ids": [1]}, "count": {},
        "upsert": {"ids": [1], "vectors": [ONE]}, "add": {"ids": [99], "vectors": [ONE]},
        "load": {"ids": [1], "vectors": [ONE], "tenants": ["globex"]},
        "delete": {"ids": [1]}, "grant": {"ids": [1], "to": "a"},
        "revoke": {"ids": [1], "from": "a"}, "open": {}, "create": {"dim": 2},
        "set_quota": {"rows": 0}, "tune": {}, "repair": {},
        "import": b'{"id": 1, "vector": [1, 0]}',
    }  # fmt: skip
    return bodies.get(verb.name)


def everything(service: Running, key: str, tenant: str) -> dict[str, bytes]:
    """Answers of every verb about a tenant, with what differs between any two calls left out."""
    told = {}
    for verb in VERBS.values():
        names = {"collection": "notes", "name": tenant}
        path = verb.url(names, (tenant,) if verb.tenants else None)
        answer = service.call(verb.method, path, example(verb), key=key)
        body = answer.body.replace(answer.headers["x-request-id"].encode(), b"")
        told[verb.name] = b"%d %s" % (answer.status, body.replace(tenant.encode(), b"?"))
    return told


@pytest.mark.parametrize("role", ["read", "write", "admin"])
def test_a_key_of_one_tenant_reaches_no_other(guarded: Guarded, role: str) -> None:
    key = guarded.keys[f"a {role}"]
    with guarded.service.connect(guarded.keys["admin"]) as store:
        before = store.collection("notes").tenant("globex").get([1, 7, 99])
        foreign = everything(guarded.service, key, "globex")
        unknown = everything(guarded.service, key, "nobody-of-that-name")
        for name in ("activity",):  # counts go on
            foreign.pop(name)
            unknown.pop(name)
        assert foreign == unknown, "a foreign tenant looks like one that never was"
        for name, told in foreign.items():
            assert b"secret" not in told, name
            if VERBS[name].tenants or name in ("drop_tenant", "set_quota", "load"):
                assert told.startswith(b"403"), (name, told)
        assert store.collection("notes").tenant("globex").get([1, 7, 99]) == before
        assert store.collections() == ["notes", "plain"]


ABOUT_ONE = {
    "query", "search", "explain", "get", "vectors", "count", "upsert", "add", "delete", "revoke",
    "export", "import", "map", "collections", "collection", "open", "stats", "tenants",
    "drop_tenant", "create",
}  # fmt: skip
"""Verbs that a key of one tenant may have something to do with; `create` compares options."""


@pytest.mark.parametrize("role", ["read", "write", "admin"])
def test_what_is_about_all_is_for_no_key_of_one(guarded: Guarded, role: str) -> None:
    """Whatever its role, and though its own tenant is named."""
    for verb in VERBS.values():
        if verb.name not in ABOUT_ONE:
            path = verb.url({"collection": "notes", "name": "a"}, ("a",) if verb.tenants else None)
            answer = guarded.call(f"a {role}", verb.method, path, example(verb))
            assert (answer.status, answer.error[0]) == (403, "AccessDeniedError"), verb.name
    assert guarded.call(f"a {role}", "GET", "/metrics").status == 403


def test_what_a_key_of_one_tenant_may_do(guarded: Guarded) -> None:
    service = guarded.service
    with service.connect(guarded.keys["a write"]) as store:
        assert store.collections() == ["notes"]
        notes = store.collection("notes")
        assert notes.tenants() == ["a"]
        assert notes.stats() == {"rows": 2}
        own = notes.tenant("a")
        own.upsert([3], [ONE])
        assert {hit.id for hit in own.query(ONE)} == {1, 2, 3}
        assert own.delete([3]) == 1
        assert own.revoke([1], from_="globex") == 0
        for refused in (
            lambda: own.grant([1], to="globex"),
            lambda: notes.tenant("a", "globex").query(ONE),
            lambda: notes.tenant("globex").count(),
            lambda: notes.set_quota("a", rows=10**6),
            lambda: notes.compact(),
            lambda: store.stats(),
            lambda: store.check(),
            lambda: store.drop("notes"),
            lambda: notes.drop_tenant("a"),
            lambda: store.collection("new", dim=3),
        ):
            with pytest.raises((vecstore.AccessDeniedError, vecstore.CollectionNotFoundError)):
                refused()
        with pytest.raises(vecstore.CollectionNotFoundError) as plain:
            store.collection("plain")
        with pytest.raises(vecstore.CollectionNotFoundError) as nowhere:
            store.collection("nowhere")
        assert f"{plain.value}".replace("plain", "") == f"{nowhere.value}".replace("nowhere", "")
        assert service.call("POST", f"{NOTES}/count", {}, key=guarded.keys["a write"]).error[0] == (
            "TenantRequiredError"
        )


def test_a_key_of_one_tenant_sees_all_of_its_own(guarded: Guarded) -> None:
    packed = guarded.call("a read", "GET", f"{NOTES}/export?tenant=a")
    assert packed.status == 200, packed.body
    lines = [json.loads(line) for line in gzip.decompress(packed.body).splitlines()]
    assert [(line["id"], line["tenant"]) for line in lines] == [(1, "a"), (2, "a")]
    shown = guarded.call("a read", "GET", f"{NOTES}/map?tenant=a")
    assert shown.json["stats"]["rows_fresh"] == 2
    for path in ("export", "map"):
        for query in ("", "?tenant=globex", "?tenant=a&tenant=globex"):
            answer = guarded.call("a read", "GET", f"{NOTES}/{path}{query}")
            assert answer.status in (400, 403)
            assert b"secret" not in answer.body


def test_a_key_that_reads_meets_a_store_that_is_read(guarded: Guarded) -> None:
    for name in ("read", "a read"):
        with guarded.service.connect(guarded.keys[name]) as store:
            own = store.collection("notes").tenant("a")
            assert own.count() == 2
            for write in (
                lambda own=own: own.upsert([9], [ONE]),
                lambda own=own: own.add([9], [ONE]),
                lambda own=own: own.delete([1]),
                lambda own=own: own.revoke([1], from_="globex"),
            ):
                with pytest.raises(vecstore.ReadOnlyError):
                    write()
            assert own.count() == 2
    with guarded.service.connect(guarded.keys["read"]) as store:
        with pytest.raises(vecstore.ReadOnlyError):
            store.collection("notes").tenant("a").grant([1], to="globex")
        body = b'{"id": 9, "vector": [1, 0]}'
        answer = guarded.call("read", "POST", f"{NOTES}/import?tenant=a", body)
        assert answer.error[0] == "ReadOnlyError"


def test_every_role_of_every_verb(guarded: Guarded) -> None:
    for verb in VERBS.values():
        for role in Role:
            if role >= verb.role:
                continue
            path = verb.url({"collection": "notes", "name": "a"})
            answer = guarded.call(role.name.lower(), verb.method, path, example(verb))
            assert (answer.status, answer.error[0]) == (403, "AccessDeniedError"), verb.name


# --- browsers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:7878"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:7878"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
    ids=str,
)
def test_pages_of_others_get_nothing(
    service: Running, headers: dict[str, str], status: int
) -> None:
    for path in ("/v1/collections", "/", "/metrics"):
        answer = service.call("GET", path, headers=headers)
        assert answer.status == status
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_preflight_is_not_answered(service: Running) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert service.call("OPTIONS", "/v1/collections", headers=headers).status == 403


def test_a_name_may_be_given(tmp_path: Path) -> None:
    with running(tmp_path / "store", hosts=("vectors.example",)) as service:
        for host in ("vectors.example", "vectors.example:80", "VECTORS.example"):
            assert service.call("GET", "/v1/collections", headers={"Host": host}).status == 200


# --- limits -----------------------------------------------------------------------------------


def test_limits_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "store"
    slow = run_json("keys", "add", path, "--role", "admin", "--calls-per-second", "5")["key"]
    free = run_json("keys", "add", path, "--role", "admin")["key"]
    with running(path) as service:
        began = time.monotonic()
        answers = [service.call("GET", "/v1/collections", key=slow) for _ in range(12)]
        limited = [answer for answer in answers if answer.status == 429]
        assert 5 <= 12 - len(limited) <= 6 + 5 * (time.monotonic() - began)
        assert all(answer.error[0] == "RateLimitedError" for answer in limited)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in limited)
        assert service.call("GET", "/v1/collections", key=free).status == 200
        with service.connect(slow) as store:  # waits as it is told, and gets through
            assert [store.collections() for _ in range(3)] == [[], [], []]
        with service.connect(slow, patience_s=0) as store:
            refused = [failure(store.collections, vecstore.RateLimitedError) for _ in range(20)]
            assert all(error.retry_after_s for error in refused if error is not None)
            assert any(refused)


def test_calls_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store"
    key = run_json("keys", "add", path, "--role", "admin", "--calls-at-once", "2")["key"]
    with running(path) as service:
        release = threading.Event()
        held = hold(service, release)
        statuses: list[int] = []

        def call() -> None:
            statuses.append(service.call("POST", "/v1/check", key=key).status)

        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 10
        while len(statuses) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert statuses == [429] * 3
        release.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 429, 429, 429]
        assert held()
        assert service.call("GET", "/v1/collections", key=key).status == 200


def hold(service: Running, release: threading.Event) -> Any:
    """Let checks of the store wait for an event."""
    store = service.process.service.stores.reading
    assert store is not None
    check, calls = store.check, []

    def held() -> Any:
        calls.append(1)
        assert release.wait(20)
        return check()

    store.check = held  # type: ignore[method-assign]
    return lambda: len(calls)


def test_more_than_can_wait_is_sent_away(tmp_path: Path) -> None:
    with running(tmp_path / "store", waiting_max=3) as service:
        release = threading.Event()
        hold(service, release)
        statuses: list[int] = []

        def call() -> None:
            answer = service.call("POST", "/v1/check")
            statuses.append(answer.status)
            assert answer.status == 200 or int(answer.headers["retry-after"]) >= 1

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 10
        while len(statuses) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        assert statuses == [503] * 5
        release.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * 3 + [503] * 5


def test_large_bodies_are_bounded_together(tmp_path: Path) -> None:
    with running(tmp_path / "store", bodies_bytes_max=150_000) as service:
        body = b" " * 100_000
        held = service.process.service
        for _ in range(3):  # nothing of a call stays behind
            assert service.call("POST", "/v1/check", body).status == 400
        held.bodies_bytes += 100_000  # as if another call held it
        answer = service.call("POST", "/v1/check", body)
        assert (answer.status, answer.error[0]) == (503, "UnavailableError")
        assert held.bodies_bytes == 100_000


def test_a_call_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: Any) -> None:
    with running(tmp_path / "store", call_timeout_s=0.2) as service, service.connect() as store:
        store.collection("docs", dim=2).upsert([1], [ONE])
        slow = threading.Event()
        reading = service.process.service.stores.reading
        assert reading is not None
        docs = reading.collection("docs")
        monkeypatch.setattr(docs, "count", lambda where=None: slow.wait(10))
        answer = service.call("POST", "/v1/collections/docs/count", {})
        assert (answer.status, answer.error[0]) == (504, "ServiceTimeoutError")
        assert service.call("POST", "/v1/collections/docs/query", {"vector": ONE}).status == 200
        slow.set()


# --- idempotency ------------------------------------------------------------------------------


def test_a_write_under_one_key_is_carried_out_once(service: Running) -> None:
    with service.connect() as store:
        docs = store.collection("once", dim=2)
        body = {"ids": [1], "vectors": [ONE]}
        path = "/v1/collections/once/add"
        headers = {"Idempotency-Key": "k1"}
        first = service.call("POST", path, body, headers=headers)
        again = service.call("POST", path, body, headers=headers)
        assert (first.status, first.body) == (again.status, again.body) == (200, first.body)
        assert "idempotent-replay" not in first.headers
        assert again.headers["idempotent-replay"] == "true"
        assert service.call("POST", path, body).status == 409
        other = service.call("POST", path, {"ids": [2], "vectors": [ONE]}, headers=headers)
        assert (other.status, other.error[0]) == (400, "InvalidArgumentError")
        assert docs.count() == 1
        # What was refused is refused again, without looking.
        headers = {"Idempotency-Key": "k2"}
        assert service.call("POST", path, body, headers=headers).status == 409
        docs.delete([1])
        assert service.call("POST", path, body, headers=headers).status == 409
        # At the same time.
        answers: list[Answer] = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    service.call("POST", path, body, headers={"Idempotency-Key": "k3"})
                )
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200] * 8
        store.drop("once")


WRITES: list[tuple[str, str, Any]] = [
    ("PUT", "/v1/collections/new", {"dim": 3}),
    ("POST", f"{NOTES}/add?tenant=a", {"ids": [61], "vectors": [ONE]}),
    ("POST", f"{NOTES}/upsert?tenant=a", {"ids": [62], "vectors": [ONE]}),
    ("POST", f"{NOTES}/load", {"ids": [63], "vectors": [ONE], "tenants": [["a", "b"]]}),
    ("POST", f"{NOTES}/grant?tenant=a", {"ids": [61, 62], "to": "b"}),
    ("POST", f"{NOTES}/revoke?tenant=a", {"ids": [61, 62], "from": "b"}),
    ("POST", f"{NOTES}/delete?tenant=a", {"ids": [62, 99]}),
    ("POST", f"{NOTES}/delete?tenant=nobody", {"ids": [62]}),
    ("PUT", f"{NOTES}/tenants/a/quota", {"rows": 9}),
    ("DELETE", f"{NOTES}/tenants/b", None),
    ("DELETE", "/v1/collections/old", None),
]


def test_a_write_is_carried_out_once_whichever_process_writes(tmp_path: Path) -> None:
    """Every verb, before and after the process that wrote has ended with all it knew."""
    path = tmp_path / "store"
    with running(path) as service, service.connect() as store:
        store.collection("notes", dim=2, tenants=True)
        store.collection("old", dim=2)
    told = []
    for replayed in (False, True):
        with running(path) as service:
            for place, (method, target, body) in enumerate(WRITES):
                headers = {"Idempotency-Key": f"w{place}"}
                answer = service.call(method, target, body, headers=headers)
                assert answer.status == 200, (target, answer.body)
                assert ("idempotent-replay" in answer.headers) is replayed, target
                told.append(answer.body)
                other = service.call(method, target + "x", body, headers=headers)
                assert other.status >= 400
            with service.connect() as store:
                notes = store.collection("notes")
                assert notes.tenants() == ["a"]
                own = notes.tenant("a")
                assert [hit and hit.id for hit in own.get([61, 62, 63])] == [61, None, 63]
                assert store.collections() == ["new", "notes"]
                assert store.check() == []
                # What would follow if one of them were carried out a second time.
                if not replayed:
                    own.delete([61])
                    own.upsert([61], [[0.0, 1.0]])
                else:
                    assert own.vectors([61]).tolist() == [[0.0, 1.0]]
    assert told[: len(WRITES)] == told[len(WRITES) :]
    assert b'{"count":2}' in told
    assert {verb.name for verb in VERBS.values() if verb.leaves_receipt} == {
        "create", "add", "upsert", "load", "grant", "revoke", "delete", "set_quota", "drop_tenant",
        "drop",
    }  # fmt: skip


def test_an_import_takes_no_idempotency_key(service: Running) -> None:
    answer = service.call(
        "POST", "/v1/collections/none/import", b"", headers={"Idempotency-Key": "x"}
    )
    assert answer.error[0] == "InvalidArgumentError"


def test_receipts_of_callers_are_apart(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with vecstore.open(path) as store:
        store.collection("notes", dim=2, tenants=True)
    keys = [run_json("keys", "add", path, "--role", "write")["key"] for _ in range(2)]
    body, headers = {"ids": [1], "vectors": [ONE]}, {"Idempotency-Key": "same"}
    target = f"{NOTES}/add?tenant=a"
    for key, status in ((keys[0], 200), (keys[1], 409), (keys[0], 200)):
        with running(path) as service:  # nothing is left but what the store holds
            assert service.call("POST", target, body, key=key, headers=headers).status == status


def test_idempotency_keys_of_callers_are_apart(guarded: Guarded) -> None:
    body = {"ids": [55], "vectors": [ONE]}
    path = f"{NOTES}/add?tenant=a"
    headers = {"Idempotency-Key": "same"}
    assert guarded.call("a write", "POST", path, body, headers=headers).status == 200
    assert guarded.call("write", "POST", path, body, headers=headers).status == 409
    assert guarded.call("write", "POST", f"{NOTES}/delete?tenant=a", {"ids": [55]}).json == {
        "count": 1
    }


# --- what errors give away --------------------------------------------------------------------


def test_errors_name_no_path_and_no_code(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "store"
    with running(path) as service, service.connect() as store:
        docs = store.collection("docs", dim=2)
        docs.upsert(np.arange(3), np.eye(2)[[0, 1, 0]])
        reading = service.process.service.stores.reading
        assert reading is not None
        own = reading.collection("docs")
        failures: list[BaseException] = [
            RuntimeError(f"bug in {path}"),
            OSError(5, "bad", str(path)),
            MemoryError(),
            vecstore.CorruptionError(f"{path} is damaged.", collection="docs", extent=3),
            vecstore.DiskFullError(f"No room in {path}."),
            vecstore.DiskFullError(f"No room in {service.options.copies}x/store."),
            vecstore.VecstoreError(f"{keys_beside(path)} is damaged."),
        ]
        for failure in failures:

            def fail(*args: Any, failure: BaseException = failure, **more: Any) -> Any:
                raise failure

            with monkeypatch.context() as patch:
                patch.setattr(own, "stats", fail)
                answer = service.call("GET", "/v1/collections/docs/stats")
            assert answer.status >= 500
            assert f"{tmp_path}" not in answer.body.decode()
            assert "Traceback" not in answer.body.decode()
            assert "of of" not in answer.body.decode()
            if isinstance(failure, vecstore.CorruptionError):
                assert answer.json["error"]["details"]["extent"] == 3
        assert service.call("GET", "/v1/collections/docs/stats").status == 200


def test_the_log_is_json_and_has_the_request(service: Running, service_log: Path) -> None:
    before = service_log.stat().st_size
    service.call("GET", "/v1/collections/none", headers={"X-Request-Id": "mine-1"})
    service.call("GET", "/v1/collections/none", headers={"X-Request-Id": "no good!"})
    time.sleep(0.05)
    lines = [json.loads(line) for line in service_log.read_bytes()[before:].splitlines()]
    calls = [line for line in lines if line["event"] == "call"]
    assert calls[0]["request_id"] == "mine-1"
    assert calls[0]["status"] == 404
    assert "no good" not in calls[1]["request_id"]
