"""Passing writes on: what is sent again when the process that writes ends with a call in hand."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import vecstore
from vecstore.service import forward
from vecstore.service.forward import Forwarder
from vecstore.wire.verbs import VERBS

DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"


async def passed_on(
    verb: str, answers: list[bytes], body: Any = b"{}", *, late: bool = False, key: bytes = b""
) -> tuple[Any, list[bytes]]:
    """Pass a call on to a process that gives these answers and then closes the connection."""
    calls: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[min(len(calls), len(answers)) - 1])
        await writer.drain()
        writer.close()

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "w")
        forwarder = Forwarder(path)
        headers = [(b"authorization", b"Bearer k"), (b"cookie", b"x"), (b"content-type", b"a/b")]
        if key:
            headers.append((b"idempotency-key", key))
        call = asyncio.ensure_future(
            forwarder.call(VERBS[verb], b"/v1/x?tenant=a", headers, body, "id-1")
        )
        if late:
            await asyncio.sleep(0.1)
        server = await asyncio.start_unix_server(serve, path)
        try:
            return await call, calls
        except vecstore.UnavailableError as error:
            return error, calls
        finally:
            forwarder.close()
            server.close()
            await server.wait_closed()


def test_what_is_passed_on() -> None:
    answer, calls = asyncio.run(passed_on("add", [DONE]))
    assert answer[0] == 200
    assert answer[2] == b"{}"
    assert calls[0].startswith(b"POST /v1/x?tenant=a HTTP/1.1\r\n")
    for header in (b"authorization: Bearer k", b"content-type: a/b", b"x-request-id: id-1"):
        assert header in calls[0]
    assert b"cookie" not in calls[0]


@pytest.mark.parametrize("cut", [b"", DONE[:20], DONE[:-1]])
def test_a_write_under_a_key_is_sent_again(cut: bytes) -> None:
    for verb in VERBS.values():
        if verb.leaves_receipt:
            answer, calls = asyncio.run(passed_on(verb.name, [cut, DONE], key=b"once"))
            assert (answer[0], len(calls)) == (200, 2), verb.name
            assert all(b"idempotency-key: once\r\n" in call for call in calls)


@pytest.mark.parametrize("cut", [b"", DONE[:20], DONE[:-1]])
def test_a_call_that_may_have_been_carried_out(cut: bytes) -> None:
    for verb in VERBS.values():
        if verb.where != 2 or verb.name == "import":
            continue
        answer, calls = asyncio.run(passed_on(verb.name, [cut, DONE]))
        if verb.repeatable:
            assert (answer[0], len(calls)) == (200, 2), verb.name
        else:
            assert isinstance(answer, vecstore.UnavailableError), verb.name
            assert answer.retry_after_s is None, "the caller must not try again by itself"
            assert len(calls) == 1, verb.name


def test_a_stream_is_not_sent_twice() -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b"{}\n"

    answer, calls = asyncio.run(passed_on("import", [b"", DONE], lines()))
    assert isinstance(answer, vecstore.UnavailableError)
    assert len(calls) == 1


def test_a_stream_that_is_refused_is_answered_before_its_end() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"{}\n" * 10_000
            await asyncio.sleep(0)

    refused = DONE.replace(b"200 OK", b"400 Bad")
    answer, calls = asyncio.run(asyncio.wait_for(passed_on("import", [refused], endless()), 20))
    assert answer[0] == 400
    assert len(calls) == 1


def test_a_connection_is_not_kept_until_the_other_side_closes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def count(calls: int) -> int:
        ended: list[asyncio.Event] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ended.append(asyncio.Event())
            mine = ended[-1]
            while await reader.readline():
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                writer.write(DONE)
            writer.close()
            await writer.wait_closed()
            mine.set()

        with tempfile.TemporaryDirectory() as folder:
            server = await asyncio.start_unix_server(serve, f"{folder}/w")
            forwarder = Forwarder(f"{folder}/w")
            for _ in range(calls):
                assert (await forwarder.call(VERBS["add"], b"/x", [], b"{}", "1"))[0] == 200
            forwarder.close()
            for one in ended:
                await one.wait()
            server.close()
            await server.wait_closed()
        return len(ended)

    assert asyncio.run(count(3)) == 1
    monkeypatch.setattr(forward, "_IDLE_S", 0.0)
    assert asyncio.run(count(3)) == 3


def test_a_process_that_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, _ = asyncio.run(passed_on("add", [DONE], late=True))
    assert answer[0] == 200
    monkeypatch.setattr(forward, "WAIT_S", 0.05)
    answer, calls = asyncio.run(passed_on("add", [DONE], late=True))
    assert isinstance(answer, vecstore.UnavailableError)
    assert answer.retry_after_s is not None, "nothing was carried out"
    assert calls == []
