"""Gzip as callers send it: unpacked in bounded pieces, since a small body may hold very much."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from vecstore.errors import InvalidArgumentError

PIECE_BYTES: Final = 1 << 18
_GZIP: Final = 31


class Unpacker:
    """Unpacks a stream of one gzip member or several, as `cat a.gz b.gz` makes it."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._begun = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Give what a chunk holds, at most `PIECE_BYTES` at a time.

        Raises
        ------
        InvalidArgumentError
            It is no gzip.
        """
        try:
            while chunk:
                if self._member.eof:
                    self._member = zlib.decompressobj(_GZIP)
                self._begun = True
                piece = self._member.decompress(chunk, PIECE_BYTES)
                chunk = self._member.unconsumed_tail or self._member.unused_data
                if piece:
                    yield piece
        except zlib.error as error:
            raise InvalidArgumentError(f"The body is no gzip ({error}).") from None

    def end(self) -> None:
        """Raise InvalidArgumentError when the stream is not whole."""
        if not self._begun or not self._member.eof:
            raise InvalidArgumentError("The gzip stream is cut short.")
