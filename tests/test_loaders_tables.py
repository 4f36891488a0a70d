"""hdf5 and parquet: there and back, and each way they can be broken."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loader_checks import VECTORS, WORDS, refused, same
from vecstore.loaders import open_source

# --- hdf5 ---------------------------------------------------------------------------------------


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["train"] = VECTORS
        file["test"] = VECTORS[:5]
        file.create_dataset("deep/packed", data=VECTORS, chunks=(5, 3), compression="gzip")
        file["words"] = WORDS
        file["n"] = np.arange(37)
        file["wide"] = np.zeros((37, 0))
        file["line"] = np.zeros(4)
    source = open_source(path, id_column="words", document_column="/words", metadata_columns=["n"])
    same(source)
    assert isinstance(source.vectors, np.memmap)
    assert Path(source.vectors.filename or "") == path
    assert source.ids == WORDS
    assert source.documents == WORDS
    assert source.metadata is not None
    assert source.metadata[7] == {"n": 7}
    same(open_source(path, array_key="/deep/packed"))
    same(open_source(path, array_key="test"), VECTORS[:5])
    refused(path, "has no 'nope'", "deep/packed ((37, 12) float32)", array_key="nope")
    refused(path, "has no 'nope'", id_column="nope")
    refused(path, "holds no vectors", array_key="wide")
    refused(path, "1 dimension (4,)", array_key="line")
    refused(path, "They must have the same length", id_column="line")


def test_hdf5_chunks_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr("vecstore.loaders.hdf5.BLOCK_BYTES", 12 * 4 * 9)
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        file.create_dataset("v", data=VECTORS, chunks=(4, 12))
    seen: list[tuple[str, int, int]] = []
    same(open_source(tmp_path / "x.h5", progress=lambda *call: seen.append(call)))
    assert [done for _, done, _ in seen] == [8, 16, 24, 32, 37]
    with h5py.File(tmp_path / "y.h5", "w", userblock_size=512) as file:
        file["v"] = VECTORS
    same(open_source(tmp_path / "y.h5"))


def test_hdf5_truncated_and_damaged(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file.create_dataset("v", data=VECTORS, chunks=(37, 12), compression="gzip")
    data = (tmp_path / "whole.h5").read_bytes()
    path = tmp_path / "x.h5"
    for length in [*range(1, len(data), 101), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path, "cut short or damaged")
    with h5py.File(path, "w") as file:
        file["nothing"] = "text"
    refused(path, "no vectors found", "nothing")


# --- parquet ------------------------------------------------------------------------------------


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, **options)


@pytest.mark.parametrize("kind", ["list", "large", "fixed", "f2", "f8", "i4"])
def test_parquet_vectors(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr("vecstore.loaders.parquet.BLOCK_BYTES", 300)
    item = {"f2": pa.float16(), "f8": pa.float64(), "i4": pa.int32()}.get(kind, pa.float32())
    whole = {
        "large": pa.large_list(item),
        "fixed": pa.list_(item, 12),
    }.get(kind, pa.list_(item))
    values = np.round(VECTORS * 4) if kind in ("f2", "i4") else VECTORS
    numpy_type = {"f2": np.float16, "i4": np.int32}.get(kind, np.float32)
    column = pa.array([row.astype(numpy_type) for row in values], whole)
    write_parquet(tmp_path / "x.parquet", {"emb": column, "n": list(range(37))}, row_group_size=10)
    seen: list[tuple[str, int, int]] = []
    same(open_source(tmp_path / "x.parquet", progress=lambda *call: seen.append(call)), values)
    assert len(seen) > 1
    assert seen[-1] == ("read", 37, 37)


def test_parquet_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.pq"
    rows = [row.tolist() for row in VECTORS]
    day = datetime.date(2024, 5, 6)
    write_parquet(
        path,
        {
            "id": WORDS,
            "vector": rows,
            "document": [None, *WORDS[1:]],
            "metadata": [{"n": i} for i in range(37)],
            "day": [day] * 37,
            "score": [1.5] * 37,
            "json": [json.dumps({"a": [i]}) for i in range(37)],
            "other": rows,
            "nr": list(range(37)),
        },
    )
    source = open_source(path)
    same(source)
    assert source.ids == WORDS
    assert source.documents is not None
    assert source.documents[:] == [None, *WORDS[1:]]
    assert source.metadata is not None
    assert source.metadata[36] == {"n": 36}
    chosen = open_source(
        path,
        vector_column="other",
        id_column="nr",
        document_column="json",
        metadata_columns=("day", "score"),
    )
    same(chosen)
    assert chosen.ids is not None
    assert list(chosen.ids) == list(range(37))
    assert chosen.documents is not None
    assert chosen.documents[3] == '{"a": [3]}'
    assert chosen.metadata is not None
    assert chosen.metadata[0] == {"day": "2024-05-06", "score": 1.5}
    refused(path, "'score' is double", "'vector', 'other'", vector_column="score")
    refused(path, "has no 'nope'", "id (string)", vector_column="nope")
    refused(path, "has no 'nope'", "'id', 'vector'", metadata_columns=["nope"])
    refused(path, "row 0", "column 'score': 1.5 is no id", id_column="score")
    refused(path, "row 0", "1.5 is no document", document_column="score")
    refused(path, "row 0: no id in column 'document'", id_column="document")


def test_parquet_metadata_as_text_or_map(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    write_parquet(path, {"v": [[1.0], [2.0]], "metadata": ['{"a": 1}', None]})
    assert list(open_source(path).metadata or ()) == [{"a": 1}, None]
    write_parquet(path, {"v": [[1.0], [2.0]], "metadata": ['{"a": 1}', "{"]})
    refused(path, "row 1", "column 'metadata'", "JSON")
    write_parquet(path, {"v": [[1.0], [2.0]], "metadata": ['{"a": 1}', "3"]})
    refused(path, "row 1", "3 is no metadata")
    pairs = pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64()))
    write_parquet(path, {"v": [[1.0], [2.0]], "metadata": pairs})
    assert list(open_source(path).metadata or ()) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": [1], "b": ["x"]}, ("no vectors found", "a (int64), b (string)", "--vector-column")),
        ({"a": [[1.0]], "b": [[1.0]]}, ("several", "a (list<", "--vector-column")),
        ({"a": [["x"]]}, ("no vectors found", "a (list<")),
        ({"v": [[1.0, 2.0], [1.0]]}, ("row 1", "has 1 numbers", "row 0 has 2")),
        ({"v": [[1.0, 2.0], None]}, ("row 1: no vector (null)",)),
        ({"v": [[1.0, 2.0], [1.0, None]]}, ("row 1: the vector holds a null",)),
        ({"v": [[1.0, 2.0], [1.0, float("nan")]]}, ("row 1: number 1", "nan", "finite")),
        ({"v": [[1.0, 2.0], [1e300, 1.0]]}, ("row 1: number 0", "1e+300", "finite")),
        ({"v": [[], []], "w": [1.0, 2.0]}, ("no vectors found",)),
    ],
)
def test_parquet_refused(tmp_path: Path, columns: dict[str, Any], words: tuple[str, ...]) -> None:
    write_parquet(tmp_path / "x.parquet", columns)
    refused(tmp_path / "x.parquet", *words)


def test_parquet_empty_vectors_and_tables(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    write_parquet(path, {"v": pa.array([[], []], pa.list_(pa.float32()))})
    refused(path, "row 0: the vector is empty")
    write_parquet(path, {"v": pa.array([], pa.list_(pa.float32()))})
    refused(path, "has no rows")


def test_parquet_tensor_column(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(VECTORS)
    write_parquet(tmp_path / "x.parquet", {"v": tensors})
    same(open_source(tmp_path / "x.parquet"))


def test_parquet_truncated_and_damaged(tmp_path: Path) -> None:
    path = tmp_path / "whole.parquet"
    write_parquet(path, {"v": [row.tolist() for row in VECTORS]}, write_page_checksum=True)
    data = path.read_bytes()
    path = tmp_path / "x.parquet"
    for length in [*range(1, len(data), 53), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path, "cut short or damaged")
    bad = bytearray(data)
    bad[300] ^= 1
    path.write_bytes(bad)
    refused(path, "damaged")
