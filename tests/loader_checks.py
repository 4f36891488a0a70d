"""What the tests of the loaders share: one set of vectors, and how a refusal is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecstore.loaders import Source, SourceFileError, open_source

RNG = np.random.default_rng(7)
VECTORS = RNG.standard_normal((37, 12)).astype(np.float32)
WORDS = [f"wört {i}" for i in range(len(VECTORS))]


def write_vecs(path: Path, rows: list[np.ndarray[Any, Any]], dtype: str) -> bytes:
    data = b"".join(np.int32(len(row)).tobytes() + np.asarray(row, dtype).tobytes() for row in rows)
    path.write_bytes(data)
    return data


def write_jsonl(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def refused(path: Path, *words: str, **options: Any) -> str:
    """Assert that the file is refused with a message that has all the words."""
    with pytest.raises(SourceFileError) as caught:
        open_source(path, **options)
    message = str(caught.value)
    for word in (path.name, *words):
        assert word in message, f"{word!r} not in {message!r}"
    assert "\n" not in message
    return message


def same(source: Source, vectors: np.ndarray[Any, Any] = VECTORS) -> None:
    assert source.vectors.shape == vectors.shape
    np.testing.assert_array_equal(np.asarray(source.vectors, np.float32), vectors)
