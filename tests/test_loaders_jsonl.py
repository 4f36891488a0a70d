"""JSON lines: there and back, and each way a line or the file can be broken."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loader_checks import VECTORS, WORDS, refused, same, write_jsonl
from vecstore.loaders import open_source

RECORDS: list[dict[str, Any]] = [
    {
        "id": word,
        "vector": vector.tolist(),
        "metadata": {"n": i, "tags": ["a", {"b": None}]} if i % 2 else None,
        "document": f"text {i}" if i % 3 else None,
        "other": 1,
    }
    for i, (word, vector) in enumerate(zip(WORDS, VECTORS, strict=True))
]


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.jsonl.gz", "zipped.jsonl"])
def test_jsonl(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecstore.loaders.jsonl.BLOCK_LINES", 8)
    path = tmp_path / name
    text = "\n\n".join(json.dumps(record) for record in RECORDS).replace("\n", "\r\n", 4)
    data = b"\xef\xbb\xbf" + text.encode()
    path.write_bytes(gzip.compress(data) if "z" in name else data)
    seen: list[tuple[str, int, int]] = []
    source = open_source(path, progress=lambda *call: seen.append(call))
    same(source)
    assert source.ids == WORDS
    assert source.metadata is not None
    assert source.documents is not None
    assert list(source.metadata) == [record["metadata"] for record in RECORDS]
    assert source.documents[:] == [record["document"] for record in RECORDS]
    assert source.documents[-1] == RECORDS[-1]["document"]
    size = path.stat().st_size
    assert seen[-1] == ("read", size, size)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_jsonl_only_vectors_and_int_ids(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"vector": [1, 2.5]}, {"vector": [3, 4]}])
    source = open_source(path)
    same(source, np.array([[1, 2.5], [3, 4]], np.float32))
    assert (source.ids, source.metadata, source.documents) == (None, None, None)
    write_jsonl(path, [{"vector": [1], "id": 5}, {"vector": [3], "id": 4}])
    ids = open_source(path).ids
    assert isinstance(ids, np.ndarray)
    assert ids.tolist() == [5, 4]
    write_jsonl(path, [{"vector": [1], "id": 2**70}, {"vector": [3], "id": 4}])
    assert open_source(path).ids == [2**70, 4]  # for the collection to refuse


def test_jsonl_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"emb": [1.0], "key": 1, "text": "t", "lang": "en", "id": [], "year": 3}])
    source = open_source(
        path,
        vector_column="emb",
        id_column="key",
        document_column="text",
        metadata_columns=["lang", "missing"],
    )
    assert source.ids is not None
    assert list(source.ids) == [1]
    assert source.documents is not None
    assert list(source.documents) == ["t"]
    assert source.metadata is not None
    assert list(source.metadata) == [{"lang": "en"}]
    refused(path, "line 1", "no 'vector'", "'emb', 'key', 'text'", "--vector-column")
    refused(path, "no 'nr'", vector_column="emb", id_column="nr")
    refused(path, "no 'doc'", vector_column="emb", id_column="key", document_column="doc")
    assert open_source(
        path, vector_column="emb", id_column="key", metadata_columns="year"
    ).metadata[0] == {"year": 3}  # type: ignore[index]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ("invalid JSON", "cut short")),
        ('{"id": 1, "vector": [1, NaN]}', ("invalid JSON",)),
        ('{"id": 1, "vector": [1, 2]} x', ("invalid JSON",)),
        ("[1, 2]", ("not a JSON object",)),
        ("3", ("not a JSON object",)),
        ('{"id": 1}', ("no 'vector'",)),
        ('{"id": 1, "vector": [1, 2, 3]}', ("has 3 numbers", "line 1 has 2")),
        ('{"id": 1, "vector": []}', ("has 0 numbers",)),
        ('{"id": 1, "vector": [1, "2"]}', ("Expected `float`, got `str`", "$.vector[1]")),
        ('{"id": 1, "vector": [1, true]}', ("got `bool`",)),
        ('{"id": 1, "vector": [1, null]}', ("got `null`",)),
        ('{"id": 1, "vector": "1 2"}', ("Expected `array`",)),
        ('{"id": 1, "vector": [1, 1e300]}', ("number 1", "1e+300", "not a finite float32")),
        ('{"vector": [1, 2]}', ("has no id, line 1 has an id of type int",)),
        ('{"id": "a", "vector": [1, 2]}', ("id of type str, line 1 has an id of type int",)),
        ('{"id": true, "vector": [1, 2]}', ("got `bool`", "$.id")),
        ('{"id": 1.5, "vector": [1, 2]}', ("got `float`", "$.id")),
        ('{"id": null, "vector": [1, 2]}', ("got `null`", "$.id")),
        ('{"id": 1, "vector": [1, 2], "metadata": 3}', ("$.metadata",)),
        ('{"id": 1, "vector": [1, 2], "document": 3}', ("$.document",)),
        ('{"id": 1, "vector": ' + "[" * 5000, ("line 3",)),
    ],
)
def test_jsonl_bad_line(tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"id": 0, "vector": [1, 2]}}\n\n{line}\n')
    refused(path, "line 3: ", *words)


def test_jsonl_no_text_and_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": "\xff", "vector": [1]}')
    refused(path, "line 1")
    path.write_bytes(bytes(range(256)))
    refused(path, "line 1", "invalid JSON")
    path.write_bytes(b"\n \n")
    refused(path, "every line is blank")
    path.write_text('{"vector": []}')
    refused(path, "line 1", "vector is empty")


def test_jsonl_gzip_truncated_and_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    whole = gzip.compress(b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS))
    for length in [*range(2, 30), *range(30, len(whole), 97), *range(len(whole) - 9, len(whole))]:
        path.write_bytes(whole[:length])
        refused(path, "gzip stream is cut short")
    bad = bytearray(whole)
    bad[-6] ^= 1
    path.write_bytes(bad)
    refused(path, "gzip stream", "damaged after line 37")


def test_jsonl_from_a_pipe() -> None:
    code = (
        "from vecstore.loaders import open_source as o; import sys\n"
        "sys.stdout.write(repr(o('/dev/stdin', format='jsonl').vectors.tolist()))\n"
        "try: o('/dev/stdin', format='npy')\n"
        "except Exception as e: sys.stdout.write(str(e))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b'{"vector": [1]}\n', capture_output=True, check=True
    )
    assert done.stdout.startswith(b"[[1.0]]")
    assert b"not a regular file" in done.stdout


def test_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecstore.loaders.jsonl.LINE_BYTES_MAX", 100)
    path = tmp_path / "x.jsonl"
    path.write_text('{"vector": [1, 2]}\n' + json.dumps([{"vector": [1, 2]}] * 50))
    refused(path, "line 2 is longer than 100 bytes")
