"""What is answered without a verb: health, metrics, the OpenAPI document, the page.

Browsers are the danger of a service on the loopback: a page from elsewhere can make them call it.
So a call must name this service as its host (which stops rebinding of names), and one that a page
made must come from a page of this service. There is no CORS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from vecstore.errors import AccessDeniedError, VecstoreError
from vecstore.service.exchange import Exchange
from vecstore.service.openapi import document
from vecstore.service.options import Options, is_loopback
from vecstore.wire.encoding import JSON_TYPE
from vecstore.wire.verbs import VERBS

if TYPE_CHECKING:
    from vecstore.service.app import Service

Route = Callable[["Service", Exchange], Awaitable[None]]
_TEXT = "text/plain; charset=utf-8"
_POLICY: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
)
_FILES: Final = {
    b"/": ("index.html", "text/html; charset=utf-8"),
    b"/page.js": ("page.js", "text/javascript; charset=utf-8"),
    b"/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    b"/page.css": ("page.css", "text/css; charset=utf-8"),
    b"/docs": ("docs.html", "text/html; charset=utf-8"),
    b"/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
}


def hold_origin(exchange: Exchange, options: Options) -> None:
    """Refuse a call that a browser was lured into.

    Raises
    ------
    AccessDeniedError
    """
    headers = exchange.headers
    wrong = _wrong_origin(
        options,
        headers.get(b"host", b""),
        headers.get(b"origin"),
        headers.get(b"sec-fetch-site", b"none"),
    )
    if wrong:
        raise AccessDeniedError(wrong)


@lru_cache(256)
def _wrong_origin(options: Options, host: bytes, origin: bytes | None, site: bytes) -> str:
    """Say why a call is refused; empty when it is not."""
    asked = host.decode("latin-1").lower()
    name = asked.rpartition(":")[0] if ":" in asked and not asked.endswith("]") else asked
    known = is_loopback(name) or name in options.hosts or name == options.host.lower()
    if options.is_local and options.socket is None and not known:
        return "The Host of this call is not one of this service; name it with --host-name."
    foreign = "Pages of other origins may not call this service."
    if origin is None:
        return "" if site in (b"none", b"same-origin") else foreign
    ours = (f"http://{asked}", f"https://{asked}")
    return "" if origin.decode("latin-1").lower() in ours else foreign


async def _live(service: Service, exchange: Exchange) -> None:
    await exchange.answer(200, b"live\n", _TEXT)


async def _ready(service: Service, exchange: Exchange) -> None:
    if service.ready:
        await exchange.answer(200, b"ready\n", _TEXT)
    else:
        await exchange.answer(503, b"starting\n", _TEXT, ((b"retry-after", b"1"),))


async def _openapi(service: Service, exchange: Exchange) -> None:
    await exchange.answer(200, document(), JSON_TYPE)


async def _metrics(service: Service, exchange: Exchange) -> None:
    key = service.identify(exchange)
    if key.tenant is not None:
        raise AccessDeniedError("Metrics are about all tenants; this key is bound to one.")
    gauges = await service.runner.run(VERBS["store_stats"], "metrics", lambda: _gauges(service))
    text = service.metrics.exposition(gauges)
    await exchange.answer(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")


def _gauges(service: Service) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Figures about the store, read when they are asked for."""
    store = service.stores.reading
    gauges: dict[str, list[tuple[dict[str, str], float]]] = {
        "vecstore_ready": [({}, float(service.ready))],
        "vecstore_calls_waiting": [({}, float(service.runner.waiting))],
    }
    if store is None:
        return gauges
    whole = store.stats()
    for name in ("disk_bytes", "facts_bytes", "extents", "transactions_behind"):
        if name in whole:
            gauges[f"vecstore_{name}"] = [({}, float(whole[name]))]
    for collection in whole["collections"]:
        try:
            stats: dict[str, Any] = store.collection(collection).stats()
        except VecstoreError:  # dropped meanwhile, or damaged: the others are told
            continue
        for name in ("rows", "dead_rows", "tail_rows", "postings", "tenants", "ram_bytes"):
            values = gauges.setdefault(f"vecstore_collection_{name}", [])
            values.append(({"collection": collection}, float(stats[name])))
    return gauges


@cache
def _asset(name: str) -> bytes:
    return resources.files("vecstore.service").joinpath("page", name).read_bytes()


def _file(name: str, media_type: str) -> Route:
    async def send(service: Service, exchange: Exchange) -> None:
        await exchange.answer(200, _asset(name), media_type, _POLICY)

    return send


class _Routes(dict[tuple[str, bytes], Route]):
    """Routes by method and path."""

    def methods(self, path: bytes) -> tuple[str, ...]:
        """Methods that a path has."""
        return tuple(sorted(method for method, known in self if known == path))


OPEN_ROUTES: Final = _Routes()
for _path, _route in {
    b"/health/live": _live,
    b"/health/ready": _ready,
    b"/openapi.json": _openapi,
    b"/metrics": _metrics,
    **{path: _file(*file) for path, file in _FILES.items()},
}.items():
    OPEN_ROUTES["GET", _path] = OPEN_ROUTES["HEAD", _path] = _route
