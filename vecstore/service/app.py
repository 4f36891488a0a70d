"""The ASGI application: one call from bytes to bytes.

In this order: which verb, whether a browser was lured here, whose key, may it call now, the body
within its limits, the process that it belongs to, its type, the work, the answer.  It is plain
ASGI, because on this path the validation of a framework costs more than the query: with the same
body FastAPI answers 4,800, Starlette 14,000 and this 18,600 calls a second on one core, queries
left out; msgspec checks bodies by the types that the OpenAPI document is made from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any, Final

from vecstore.errors import (
    InvalidArgumentError,
    UnavailableError,
    VecstoreError,
)
from vecstore.service import transfer
from vecstore.service.exchange import BodyTimeoutError, Exchange, Receive, Scope, Send
from vecstore.service.forward import Forwarder
from vecstore.service.handlers import Call, carry_out, tell_again
from vecstore.service.keys import Key, KeyNeededError, KeyRing
from vecstore.service.limits import Limits
from vecstore.service.logs import log, log_failure
from vecstore.service.metrics import OTHER, Metrics
from vecstore.service.open_routes import OPEN_ROUTES, hold_origin
from vecstore.service.options import Options
from vecstore.service.replies import Replies, fingerprint_of, key_was_used, place_of
from vecstore.service.routes import Match, NoRouteError, find_route, find_tenants
from vecstore.service.runner import Runner
from vecstore.service.scope import Stores
from vecstore.store import receipts_of
from vecstore.wire.bodies import Fault, FaultBody
from vecstore.wire.encoding import JSON_TYPE, Decoder, Form, encode, parse_form
from vecstore.wire.faults import fault_of, status_of, unavailable
from vecstore.wire.verbs import VERBS, Verb, Where

_SLOW_S: Final = 1.0
_AGAIN: Final = ((b"idempotent-replay", b"true"),)
_DECODERS: Final = {
    verb.name: Decoder(verb.request) for verb in VERBS.values() if verb.request is not None
}


@dataclass(frozen=True)
class Write:
    """A call that writes, as the thread that writes carries it out.

    Attributes
    ----------
    verb : Verb
    call : Call
    form : Form
        Of its answer.
    """

    verb: Verb
    call: Call
    form: Form

    def carry_out(self) -> bytes:
        """Carry it out; returns the body of its answer."""
        return encode(carry_out(self.verb.name, self.call), self.form)

    def carry_out_once(self, key: bytes, fingerprint: bytes) -> tuple[bytes, bool]:
        """Carry it out unless there is a receipt; also whether there was one.

        Raises
        ------
        InvalidArgumentError
            The key came with another call.
        """
        store = self.call.stores.writing
        if not self.verb.leaves_receipt or store is None:
            return self.carry_out(), False
        receipts = receipts_of(store)
        found = receipts.find(key)
        if found is None:
            with receipts.carrying(key, fingerprint):
                return self.carry_out(), False
        if found.fingerprint != fingerprint:
            raise key_was_used()
        return encode(tell_again(self.verb, self.call, found.result), self.form), True


@dataclass
class Service:
    """What the calls of one process share.

    Attributes
    ----------
    options : Options
    stores : Stores
    keys : KeyRing
    limits : Limits
    metrics : Metrics
    runner : Runner
    replies : Replies
    forwarder : Forwarder or None
        Where verbs that write go; None in the process that writes.
    private : bool
        Its callers are processes of the same service, which count, limit and log what they pass on.
    ready : bool
        Queries are answered.
    bodies_bytes : int
        Bytes of bodies that calls hold at the moment.
    """

    options: Options
    stores: Stores
    keys: KeyRing
    limits: Limits
    metrics: Metrics
    runner: Runner
    replies: Replies = field(default_factory=Replies)
    forwarder: Forwarder | None = None
    private: bool = False
    ready: bool = False
    bodies_bytes: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        started = time.perf_counter()
        exchange = Exchange(scope, receive, send, self.options, self)
        caller = ""
        name = OTHER
        if not self.private:
            self.metrics.begin()
        try:
            open_route = OPEN_ROUTES.get((exchange.method, exchange.raw_path))
            exchange.refuse_repeated()
            hold_origin(exchange, self.options)
            if open_route is not None:
                await open_route(self, exchange)
                return
            match = find_route(exchange.method, exchange.raw_path)
            name = match.verb.name
            key = self.identify(exchange)
            caller = key.id
            await self._limited(match, key, exchange)
        except NoRouteError as error:
            await self._no_route(exchange, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await self._fail(exchange, error, name)
        finally:
            self.bodies_bytes -= exchange.held_bytes
            if not self.private:
                took = time.perf_counter() - started
                self.metrics.end(name, exchange.status, took, exchange.body_bytes)
                self._log(exchange, name, caller, took)

    def identify(self, exchange: Exchange) -> Key:
        """Find whose call it is."""
        header = exchange.headers.get(b"authorization")
        presented = None
        if header is not None:
            scheme, _, presented = header.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                presented = None
        return self.keys.find(presented)

    async def _limited(self, match: Match, key: Key, exchange: Exchange) -> None:
        if not self.ready:
            raise unavailable("The service is starting; it answers when /health/ready does.")
        counted = not self.private and self.limits.begin(key)
        try:
            await self._carry_out(match, key, exchange)
        finally:
            if counted:
                self.limits.end(key)

    async def _carry_out(self, match: Match, key: Key, exchange: Exchange) -> None:
        verb = match.verb
        if exchange.query and not verb.tenants:
            raise InvalidArgumentError(f"{verb.name} takes no query string.")
        tenants = find_tenants(exchange.query)
        if b"idempotency-key" in exchange.headers and verb.name in transfer.STREAMS:
            raise InvalidArgumentError(f"{verb.name} takes no Idempotency-Key; leave it out.")
        if verb.where is Where.WRITER and self.forwarder is not None:
            await self._pass_on(self.forwarder, verb, exchange)
            return
        handed = self.stores.handed(key, verb)
        call = Call(self.stores, handed, match.names, tenants, None, self.options, self.metrics)
        if verb.name in transfer.STREAMS:
            await transfer.STREAMS[verb.name](self, exchange, call)
            return
        raw = await exchange.body()
        form = Form.JSON
        if verb.request is not None:
            form = _form_of(exchange)
            call.body = _DECODERS[verb.name](raw, form)
        elif raw:
            raise InvalidArgumentError(f"{verb.name} takes no body.")
        answer_form = _answer_form(exchange, form)
        if verb.where is Where.WRITER:
            await self._write(key, exchange, raw, Write(verb, call, answer_form))
            return
        work = partial(_work, verb.name, call, answer_form)
        body = await self.runner.run(verb, _kind(call, verb), work)
        await exchange.answer(200, body, answer_form.value)

    async def _write(self, key: Key, exchange: Exchange, raw: bytes, write: Write) -> None:
        """Carry out a verb that writes; at most once under one idempotency key."""
        verb, media_type = write.verb, write.form.value
        once = exchange.text("idempotency-key")
        if once is None:
            body = await self.runner.run(verb, verb.name, write.carry_out)
            await exchange.answer(200, body, media_type)
            return
        asked = (verb.name.encode(), exchange.raw_path, exchange.query, media_type.encode(), raw)
        place, fingerprint = place_of(key.id, once), fingerprint_of(*asked)
        known = await self.replies.earlier(place, fingerprint)
        if known is None:
            try:
                work = partial(write.carry_out_once, place, fingerprint)
                body, again = await self.runner.run(verb, verb.name, work)
            except VecstoreError as error:
                status = status_of(error)
                if status < 500 and status != 429:
                    body = encode(self._fault(error, exchange), Form.JSON)
                    self.replies.keep(place, status, body, JSON_TYPE)
                else:
                    self.replies.forget(place)
                raise
            except BaseException:
                self.replies.forget(place)
                raise
            self.replies.keep(place, 200, body, media_type)
            await exchange.answer(200, body, media_type, _AGAIN if again else ())
            return
        await exchange.answer(known.status, known.body, known.media_type, _AGAIN)

    async def _pass_on(self, forwarder: Forwarder, verb: Verb, exchange: Exchange) -> None:
        """Let the process that writes carry out a verb."""
        target = exchange.raw_path + (b"?" + exchange.query if exchange.query else b"")
        body: Any
        if verb.name in transfer.STREAMS:
            body = exchange.chunks()
        else:
            body = await exchange.raw_body()
        status, headers, answer = await forwarder.call(
            verb, target, exchange.raw_headers, body, exchange.request_id
        )
        kept = tuple(
            (name, headers[name])
            for name in (b"retry-after", b"idempotent-replay", b"www-authenticate")
            if name in headers
        )
        media_type = headers.get(b"content-type", JSON_TYPE.encode()).decode("latin-1")
        await exchange.answer(status, answer, media_type, kept)

    # --- failures --------------------------------------------------------------------------

    def _fault(self, error: BaseException, exchange: Exchange) -> FaultBody:
        return FaultBody(fault_of(error, self.options.hidden), exchange.request_id)

    async def _fail(self, exchange: Exchange, error: Exception, name: str) -> None:
        status = status_of(error)
        headers: tuple[tuple[bytes, bytes], ...] = ()
        fault = self._fault(error, exchange)
        if isinstance(error, BodyTimeoutError):
            headers = ((b"connection", b"close"),)
        elif isinstance(error, KeyNeededError):
            headers = ((b"www-authenticate", b"Bearer"),)
        elif isinstance(error, UnavailableError) and error.retry_after_s is not None:
            headers = ((b"retry-after", b"%d" % max(1, ceil(error.retry_after_s))),)
        if status >= 500 and not isinstance(error, UnavailableError):
            log_failure("failed", error, request_id=exchange.request_id, verb=name)
        if exchange.status:  # part of the answer is on its way: cut it off, so that it is not whole
            raise error
        await exchange.answer(status, encode(fault, Form.JSON), JSON_TYPE, headers)

    async def _no_route(self, exchange: Exchange, error: NoRouteError) -> None:
        allowed = error.allowed or OPEN_ROUTES.methods(exchange.raw_path)
        status = 405 if allowed else 404
        what = "takes another method" if allowed else "is no path of this service"
        fault = Fault("InvalidArgumentError", f"This {what}; /openapi.json lists all.")
        headers = ((b"allow", ", ".join(allowed).encode()),) if allowed else ()
        body = encode(FaultBody(fault, exchange.request_id), Form.JSON)
        await exchange.answer(status, body, JSON_TYPE, headers)

    def _log(self, exchange: Exchange, name: str, caller: str, took: float) -> None:
        writes = name != OTHER and VERBS[name].where is Where.WRITER
        if not (self.options.log_requests or writes or exchange.status >= 400 or took > _SLOW_S):
            return
        log(
            "call",
            request_id=exchange.request_id,
            verb=name,
            method=exchange.method,
            path=exchange.raw_path.decode("latin-1")[:512],
            status=exchange.status,
            ms=round(took * 1e3, 3),
            body_bytes=exchange.body_bytes,
            key=caller,
        )


def _work(verb: str, call: Call, form: Form) -> bytes:
    return encode(carry_out(verb, call), form)


class MediaTypeError(InvalidArgumentError):
    """A body is of a type that the service does not read."""

    status = 415


def _form_of(exchange: Exchange) -> Form:
    """Form of a body.  A type must be named: those that a foreign page may send are not ours."""
    given = exchange.text("content-type")
    form = None if given is None else parse_form(given)
    if form is None:
        raise MediaTypeError(
            f"Content-Type is {given!r}; send application/json or application/msgpack."
        )
    return form


def _answer_form(exchange: Exchange, form: Form) -> Form:
    """Form of an answer: the first of ours that the caller accepts, else that of its body."""
    for accepted in (exchange.text("accept") or "").split(","):
        found = parse_form(accepted)
        if found is not None:
            return found
    return form


def _kind(call: Call, verb: Verb) -> Any:
    """Calls that should take alike have the same kind."""
    body = call.body
    ids = getattr(body, "ids", None)
    size = len(ids) if isinstance(ids, list) else getattr(body, "k", 1)
    filtered = getattr(body, "where", None) is not None
    exact = getattr(body, "recall", None) == 1
    return verb.name, call.names.get("collection"), size.bit_length(), filtered, exact
