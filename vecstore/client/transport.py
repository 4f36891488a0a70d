"""Calls over HTTP: connections kept for the next call, bodies, errors, repeated tries.

A call that was lost on its way is made again: reads, because they do no harm, and writes, because
they carry an idempotency key, so that the service carries them out once. One that the service sends
away because it has too much to do is made again after the time that it asks for, as long as
patience lasts.
"""

from __future__ import annotations

import http.client
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from vecstore.errors import (
    InvalidArgumentError,
    ServiceTimeoutError,
    StoreClosedError,
    UnavailableError,
    VecstoreError,
)
from vecstore.wire.bodies import FaultBody
from vecstore.wire.encoding import Decoder, Form, encode, parse_form
from vecstore.wire.faults import error_of
from vecstore.wire.verbs import VERBS, Verb

_IDLE_MAX: Final = 16
_FIRST_PAUSE_S: Final = 0.05
_LOST: Final = (ConnectionError, http.client.BadStatusLine, http.client.IncompleteRead)
_FAULT = Decoder(FaultBody)
_ANSWERS: Final = {
    verb.name: Decoder(verb.answer) for verb in VERBS.values() if verb.answer is not None
}


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix-domain socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _TcpConnection(http.client.HTTPConnection):
    """A connection that sends at once, head and body being two writes."""

    def connect(self) -> None:
        """Connect."""
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Transport:
    """Makes calls; may be used from many threads, each call having a connection of its own.

    Parameters
    ----------
    url : str
        "http://host:port", "https://host", or "unix:/path/of/socket".
    key : str or None
    timeout_s : float
        For one answer.
    patience_s : float
        How long a call is made again when the service is not there or has too much to do.
    form : Form
        How bodies are written.
    """

    def __init__(
        self, url: str, key: str | None, timeout_s: float, patience_s: float, form: Form
    ) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._form = form
        self._headers = {"Accept": form.value}
        if key is not None:
            if not isinstance(key, str) or not key.isascii() or not key.isprintable():
                raise InvalidArgumentError("key is no key; pass what `vecstore keys add` printed.")
            self._headers["Authorization"] = f"Bearer {key}"
        self._connect = _parse_url(url, timeout_s)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._closed = False

    @property
    def packed(self) -> bool:
        """Whether arrays come as bytes."""
        return self._form is Form.MSGPACK

    def call(
        self,
        verb_name: str,
        names: dict[str, str] | None = None,
        tenants: tuple[str, ...] | None = None,
        body: Any = None,
    ) -> Any:
        """Carry out a verb; returns its answer as the verb's type.

        Raises
        ------
        VecstoreError
            The class that the library raises; `UnavailableError` and `ServiceTimeoutError` when
            there is no answer.
        """
        verb = VERBS[verb_name]
        headers = dict(self._headers)
        raw = b""
        if body is not None:
            raw, form = _encoded(body, self._form)
            headers["Content-Type"] = form.value
        if verb.takes_key:
            headers["Idempotency-Key"] = secrets.token_hex(16)
        target = verb.url(names or {}, tenants)
        status, media_type, answer = self._answered(verb, target, raw, headers)
        if status != 200:
            raise _failure(status, media_type, answer)
        form_of_answer = parse_form(media_type)
        if form_of_answer is None:
            raise UnavailableError(f"{self.url} answered with {media_type!r}; it is no vecstore.")
        return _ANSWERS[verb.name](answer, form_of_answer)

    @contextmanager
    def streamed(self, verb_name: str) -> Iterator[http.client.HTTPResponse]:
        """Carry out a verb that answers with a stream."""
        verb = VERBS[verb_name]
        connection = self._connect()
        try:
            try:
                connection.request(verb.method, verb.url({}), headers=self._headers)
                response = connection.getresponse()
            except OSError as error:
                raise self._lost(error) from error
            with response:
                if response.status != 200:
                    media_type = response.headers.get("Content-Type", "")
                    raise _failure(response.status, media_type, response.read())
                yield response
        finally:
            connection.close()

    def close(self) -> None:
        """Let go of all connections; later calls raise `StoreClosedError`."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _answered(
        self, verb: Verb, target: str, raw: bytes, headers: dict[str, str]
    ) -> tuple[int, str, bytes]:
        """Make a call, and make it again while that may help."""
        until = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                status, answered, answer = self._once(verb, target, raw, headers)
            except TimeoutError as error:
                raise ServiceTimeoutError(
                    f"{self.url} did not answer within {self._timeout_s:g} s; a write may have "
                    f"been carried out."
                ) from error
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() + pause_s > until:
                    raise self._lost(error) from error
                wait_s = pause_s
            else:
                media_type = answered.get("Content-Type", "")
                wait_s = max(pause_s, _seconds(answered.get("Retry-After")))
                again = status in (429, 503) and "Retry-After" in answered
                if not again or time.monotonic() + wait_s > until:
                    return status, media_type, answer
            time.sleep(wait_s)
            pause_s = min(1.0, 2 * pause_s)

    def _once(
        self, verb: Verb, target: str, raw: bytes, headers: dict[str, str]
    ) -> tuple[int, Any, bytes]:
        """Make a call, on a fresh connection if the known ones are lost."""
        for _ in range(_IDLE_MAX + 1):
            connection, used = self._take()
            try:
                connection.request(verb.method, target, raw or None, headers)
                with connection.getresponse() as response:  # which may own the socket by then
                    answer = response.read()
            except _LOST:
                connection.close()
                if not used:  # else it was closed at this very moment; a fresh one tells more
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                if response.will_close:
                    connection.close()
                else:
                    self._put(connection)
                return response.status, response.headers, answer
        raise UnavailableError(f"{self.url} closes all connections.")

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._closed:
                raise StoreClosedError(f"The connection to {self.url} is closed.")
            if self._owner != os.getpid():  # the parent goes on with its own
                self._idle, self._owner = [], os.getpid()
            while self._idle:
                connection = self._idle.pop()
                if not _is_stale(connection):
                    return connection, True
                connection.close()
        return self._connect(), False

    def _put(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def _lost(self, error: BaseException) -> VecstoreError:
        if isinstance(error, TimeoutError):
            return ServiceTimeoutError(f"{self.url} did not answer within {self._timeout_s:g} s.")
        return UnavailableError(
            f"{self.url} cannot be reached, or ended during the call ({error}); see whether it "
            f"runs."
        )


def _is_stale(connection: http.client.HTTPConnection) -> bool:
    """Tell whether the other side has closed a connection, or said what nobody asked for."""
    return connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])


def _parse_url(url: str, timeout_s: float) -> Any:
    if isinstance(url, str) and url.startswith("unix:") and len(url) > len("unix:"):
        path = url.removeprefix("unix:")
        return lambda: _UnixConnection(path, timeout_s)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        parts = host = None  # type: ignore[assignment]
    if (
        parts is None
        or host is None
        or parts.scheme not in ("http", "https")
        or parts.path.strip("/")
    ):
        raise InvalidArgumentError(
            f"url is {url!r}; use 'http://127.0.0.1:7878' or 'unix:/path/of/socket'."
        )
    if parts.scheme == "https":
        return lambda: http.client.HTTPSConnection(host, port, timeout=timeout_s)
    return lambda: _TcpConnection(host, port, timeout=timeout_s)


def _encoded(body: Any, form: Form) -> tuple[bytes, Form]:
    try:
        try:
            return encode(body, form), form
        except OverflowError:  # msgpack has ints of 64 bits, JSON of any length
            return encode(body, Form.JSON), Form.JSON
    except (TypeError, NotImplementedError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidArgumentError(f"An argument cannot be sent ({error}).") from None


def _failure(status: int, media_type: str, answer: bytes) -> VecstoreError:
    form = parse_form(media_type)
    if form is not None:
        try:
            return error_of(_FAULT(answer, form).error)
        except (InvalidArgumentError, msgspec.MsgspecError):
            pass
    return UnavailableError(f"The service answered with status {status} and {media_type!r}.")


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else 0.0
