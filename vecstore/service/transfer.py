"""Verbs that stream: export, import and backup.

What is read from the store comes from a thread of its own, a few blocks ahead of the caller: a slow
caller costs memory for these blocks, and one that takes nothing for a while is let go.
"""

from __future__ import annotations

import asyncio
import glob
import io
import queue
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from vecstore.dump import dump
from vecstore.errors import (
    InvalidArgumentError,
    RequestTooLargeError,
    ServiceTimeoutError,
    VecstoreError,
)
from vecstore.service.exchange import Exchange
from vecstore.service.handlers import Call
from vecstore.service.options import Options
from vecstore.service.packing import PIECE_BYTES, Unpacker
from vecstore.service.scope import view_of
from vecstore.wire.bodies import Imported, OneId, Vector
from vecstore.wire.encoding import Form, encode, read_vector
from vecstore.wire.verbs import VERBS

if TYPE_CHECKING:
    from vecstore.service.app import Service
    from vecstore.verbs import ReadVerbs

BLOCK_ROWS: Final = 512
_AHEAD: Final = 4
_LINE_BYTES_MAX: Final = 4 << 20
_LEVEL: Final = 3
_GZIP_BEGINS: Final = b"\x1f"


class Line(msgspec.Struct):
    """One row on its line; other fields are passed over, as `vecstore load` does."""

    id: OneId
    vector: Vector
    metadata: dict[str, Any] | None = None
    document: str | None = None


_LINE = msgspec.json.Decoder(Line)


async def _export(service: Service, exchange: Exchange, call: Call) -> None:
    lines = _lines(view_of(call.rows))
    name = f"{call.names['collection']}.jsonl.gz".encode("ascii", "replace").decode()
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
    disposition = (b"content-disposition", f'attachment; filename="{safe}"'.encode())
    pieces = _while_allowed(service, exchange, _from_thread(service, lines))
    await exchange.stream(pieces, "application/gzip", (disposition,))


def _lines(view: ReadVerbs) -> Iterator[bytes]:
    """Pieces of gzipped JSON lines."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    for block in dump(view, BLOCK_ROWS):
        lines = []
        for place, identity in enumerate(block.ids):
            line = {"id": identity, "vector": block.vectors[place]}
            for key, value in (
                ("metadata", block.metadata[place]),
                ("document", block.documents[place]),
                ("tenant", block.tenant),
            ):
                if value is not None:
                    line[key] = value
            lines.append(encode(line, Form.JSON))
        lines.append(b"")
        packed = packer.compress(b"\n".join(lines))
        if packed:
            yield packed
    yield packer.flush()


async def _backup(service: Service, exchange: Exchange, call: Call) -> None:
    packed = _packed_backup(call.store.backup, service.options)
    pieces = _while_allowed(service, exchange, _from_thread(service, packed))
    await exchange.stream(pieces, "application/x-tar", ())


def _packed_backup(back_up: Callable[[Path], None], options: Options) -> Iterator[bytes]:
    """Make a backup in a folder that goes again, and give it as a tar stream."""
    folder = Path(tempfile.mkdtemp(prefix=options.copies.name, dir=options.copies.parent))
    try:
        copy = folder / "store"
        back_up(copy)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for file in sorted(copy.rglob("*")):
                member = tar.gettarinfo(file, f"{file.relative_to(copy)}")
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                if not member.isreg():
                    tar.addfile(member)
                    continue
                yield from _member(tar, member, file, buffer)
        yield buffer.getvalue()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_copies(options: Options) -> None:
    """Remove what streams of a process that was killed left behind; none may run."""
    for entry in options.copies.parent.glob(f"{glob.escape(options.copies.name)}*"):
        shutil.rmtree(entry, ignore_errors=True)


def _member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path, buffer: io.BytesIO
) -> Iterator[bytes]:
    """Give one file of a tar stream piece by piece; `addfile` alone would hold it whole."""
    header = member.tobuf(tar.format or tarfile.PAX_FORMAT, tar.encoding or "utf-8", "strict")
    yield _taken(buffer) + header
    left = member.size
    with file.open("rb") as source:
        while left:
            piece = source.read(min(PIECE_BYTES, left))
            if not piece:
                raise OSError(f"{file.name} got shorter while it was read.")
            left -= len(piece)
            yield piece
    yield bytes(-member.size % tarfile.BLOCKSIZE)


def _taken(buffer: io.BytesIO) -> bytes:
    held = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return held


async def _while_allowed(
    service: Service, exchange: Exchange, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """Give pieces as long as the caller's key is one: a stream may outlive it."""
    try:
        async for piece in pieces:
            service.identify(exchange)
            yield piece
    finally:
        await pieces.aclose()


async def _from_thread(service: Service, pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Give what a thread of its own makes, `_AHEAD` pieces ahead."""
    made: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
    stopped = threading.Event()
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    patience_s = service.options.body_timeout_s

    def put(piece: bytes | BaseException | None) -> bool:
        waited = 0.0
        while not stopped.is_set() and waited < patience_s:
            try:
                made.put(piece, timeout=0.1)
            except queue.Full:
                waited += 0.1
            else:
                loop.call_soon_threadsafe(there.set)
                return True
        stopped.set()
        loop.call_soon_threadsafe(there.set)
        return False

    def make() -> None:
        try:
            for piece in pieces:
                if not put(piece):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the pieces are taken
            put(error)
        finally:
            pieces.close()  # type: ignore[attr-defined]

    work = asyncio.ensure_future(service.runner.run(VERBS["export"], "stream", make))
    work.add_done_callback(lambda _: there.set())
    try:
        while True:
            there.clear()
            try:
                piece = made.get_nowait()
            except queue.Empty:
                if work.done():
                    work.result()
                    raise ServiceTimeoutError("The caller took nothing for too long.") from None
                await there.wait()
                continue
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stopped.set()


async def _import(service: Service, exchange: Exchange, call: Call) -> None:
    """Upsert lines in blocks, each of them a call; tell how many were stored."""
    rows = call.rows
    stored = 0
    lines: list[tuple[int, bytes]] = []
    size = number = 0

    async def write() -> None:
        nonlocal stored, lines, size
        if lines:
            service.identify(exchange)  # the key may have been removed since the call began
            stored += await service.runner.run(
                VERBS["upsert"], "import", partial(_put, rows, lines)
            )
        lines, size = [], 0

    try:
        async for line in _split(exchange.chunks()):
            number += 1
            if not line.strip():
                continue
            lines.append((number, line))
            size += len(line)
            if len(lines) == BLOCK_ROWS or size > _LINE_BYTES_MAX:
                await write()
        await write()
    except VecstoreError as error:
        error.args = (f"{error} {stored} rows before it were stored.", *error.args[1:])
        raise
    await exchange.answer(200, encode(Imported(stored), Form.JSON), Form.JSON.value)


def _put(rows: Any, lines: list[tuple[int, bytes]]) -> int:
    parsed: list[Line] = []
    for number, line in lines:
        try:
            parsed.append(_LINE.decode(line))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidArgumentError(
                f"Line {number} is no row ({error}); write "
                '{"id": ..., "vector": [...], "metadata": {...}, "document": "..."}.'
            ) from None
    vectors = [read_vector(one.vector) for one in parsed]
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1:
        raise InvalidArgumentError(
            f"Lines {lines[0][0]} to {lines[-1][0]} have vectors of {sorted(lengths)} "
            f"dimensions; a collection has one."
        )
    rows.upsert(
        [one.id for one in parsed],
        np.stack(vectors),
        [one.metadata for one in parsed],
        [one.document for one in parsed],
    )
    return len(parsed)


async def _split(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of a body, unpacked if it begins as gzip does."""
    rest = b""
    unpacker: Unpacker | None = None
    begun = False
    async for chunk in chunks:
        if not begun and chunk:
            begun = True
            if chunk[:1] == _GZIP_BEGINS:
                unpacker = Unpacker()
        for piece in [chunk] if unpacker is None else unpacker.pieces(chunk):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line
            if len(rest) > _LINE_BYTES_MAX:
                raise RequestTooLargeError(
                    f"A line has more than {_LINE_BYTES_MAX} bytes; write one row a line."
                )
    if unpacker is not None:
        unpacker.end()
    if rest:
        yield rest


STREAMS: Final[dict[str, Callable[[Service, Exchange, Call], Awaitable[None]]]] = {
    "export": _export,
    "import": _import,
    "backup": _backup,
}
