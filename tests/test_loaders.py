"""Opening a source: what all formats share, npy, npz, fvecs and bvecs; each there and back, and
each way it can be broken, by type and message.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loader_checks import RNG, VECTORS, WORDS, refused, same, write_jsonl, write_vecs
from vecstore.errors import DiskFullError, InvalidArgumentError, VecstoreError
from vecstore.loaders import MissingPackageError, SourceFileError, open_source
from vecstore.loaders import common as loaders_common

# --- what every format shares -------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.npy", "no such file", "Check the path")
    refused(tmp_path / "none.what", "no such file")


@pytest.mark.parametrize("name", ["folder", "folder.npy", "folder.jsonl"])
def test_folder_instead_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    refused(tmp_path / name, "is a folder", "Give one file")


@pytest.mark.parametrize(
    "suffix", ["npy", "npz", "fvecs", "bvecs", "parquet", "hdf5", "jsonl", "jsonl.gz"]
)
def test_empty_file(tmp_path: Path, suffix: str) -> None:
    if suffix in ("parquet", "hdf5"):
        pytest.importorskip({"parquet": "pyarrow", "hdf5": "h5py"}[suffix])
    path = tmp_path / f"x.{suffix}"
    path.touch()
    refused(path, "empty (0 bytes)")


def test_unknown_suffix_and_format(tmp_path: Path) -> None:
    path = tmp_path / "x.vec"
    path.write_bytes(b"1")
    refused(path, "suffix", "--format", "npy, npz, fvecs")
    with pytest.raises(InvalidArgumentError, match=r"Unknown format 'csv'. Use one of: npy"):
        open_source(path, format="csv")


def test_format_overrides_suffix(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_vecs(path, list(VECTORS), "<f4")
    same(open_source(str(path), format="fvecs"))


def test_permission(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, VECTORS)
    path.chmod(0)
    if os.geteuid() != 0:
        refused(path, "permission", "chmod")
        return
    # Root may read everything; the nearest thing is the complaint itself.
    with (
        pytest.raises(SourceFileError, match="permission to read it is denied"),
        loaders_common.reading("x.npy"),
    ):
        raise PermissionError(13, "Permission denied")


def test_other_complaints_of_the_system(tmp_path: Path) -> None:
    loop = tmp_path / "loop.npy"
    loop.symlink_to(loop)
    refused(loop, "cannot be read")
    with pytest.raises(SourceFileError, match="null"):
        open_source("a\0b.npy")


def test_options_without_use() -> None:
    with pytest.raises(InvalidArgumentError, match=r"id_column .* a npy file. Leave it out"):
        open_source(__file__, format="npy", id_column="id")
    with pytest.raises(InvalidArgumentError, match="array_key"):
        open_source(__file__, format="jsonl", array_key="x")
    with pytest.raises(InvalidArgumentError, match="mean the same"):
        open_source(__file__, format="npz", array_key="x", vector_column="y")


@pytest.mark.parametrize(("suffix", "module"), [("parquet", "pyarrow.parquet"), ("hdf5", "h5py")])
def test_missing_package(
    tmp_path: Path, suffix: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"something")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'vecstore\[{suffix}\]'"):
        open_source(path)


def test_temporary_folder_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"vector": [1.0]}])

    def full(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DiskFullError, match="TMPDIR"):
        open_source(path)


# --- npy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "<i2", "u1", "i1", "<u8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, dtype: str, order: Any) -> None:
    vectors = np.asarray(np.round(np.abs(VECTORS)), dtype, order)
    np.save(tmp_path / "x.npy", vectors)
    source = open_source(tmp_path / "x.npy")
    assert isinstance(source.vectors, np.memmap)
    assert source.vectors.dtype == vectors.dtype
    assert (source.ids, source.metadata, source.documents) == (None, None, None)
    same(source, np.asarray(vectors, np.float32))


def test_npy_version_2(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, VECTORS, (2, 0))
    same(open_source(tmp_path / "x.npy"))


def test_npy_truncated_at_every_byte(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", VECTORS[:3])
    data = (tmp_path / "whole.npy").read_bytes()
    path = tmp_path / "x.npy"
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        refused(path, "cut short")


def test_npy_damaged_header(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", VECTORS[:3])
    data = (tmp_path / "whole.npy").read_bytes()
    path = tmp_path / "x.npy"
    for _ in range(300):
        bad = bytearray(data)
        for at in RNG.integers(0, 100, 3):
            bad[at] = RNG.integers(256)
        path.write_bytes(bad)
        try:
            open_source(path)
        except VecstoreError as error:
            assert "x.npy" in str(error)  # noqa: PT017
    path.write_bytes(b"PK\3\4 is a zip")
    refused(path, "begins with b'PK", "--format")
    path.write_bytes(data[:6] + b"\3\0" + data[8:])
    refused(path, "version 3.0", "numpy.save")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones(5), ("1 dimension (5,)", "two-dimensional")),
        (np.float32(1), ("0 dimensions ()",)),
        (np.ones((2, 3, 4)), ("3 dimensions (2, 3, 4)",)),
        (np.ones((0, 4)), ("(0, 4)", "holds no vectors")),
        (np.ones((4, 0)), ("(4, 0)", "holds no vectors")),
        (np.ones((2, 2), complex), ("dtype complex128", "real numbers")),
        (np.array([["a", "b"]]), ("dtype <U1", "real numbers")),
        (np.array([[1, None]], object), ("dtype object", "pickle", "numpy.stack")),
        (np.zeros((2, 2), [("a", "f4")]), ("real numbers",)),
    ],
)
def test_npy_of_something_else(
    tmp_path: Path, array: np.ndarray[Any, Any], words: tuple[str, ...]
) -> None:
    np.save(tmp_path / "x.npy", array)
    refused(tmp_path / "x.npy", *words)


# --- npz ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "x.npz"
    numbers = np.arange(len(VECTORS)) * 3
    score = np.linspace(0, 1, len(VECTORS))
    score[4] = np.nan
    save(path, base=VECTORS, query=VECTORS[:4], words=np.array(WORDS), n=numbers, score=score)
    seen: list[tuple[str, int, int]] = []
    source = open_source(
        path,
        id_column="words",
        document_column="words",
        metadata_columns=["n", "score"],
        progress=lambda *call: seen.append(call),
    )
    same(source)
    assert isinstance(source.vectors, np.memmap)
    assert source.ids == WORDS
    assert source.documents == WORDS
    assert source.metadata is not None
    assert source.metadata[2] == {"n": 6, "score": score[2]}
    assert source.metadata[4] == {"n": 12, "score": None}
    assert list(source.metadata[-2:])[1] == {"n": 108, "score": 1.0}
    assert len(source.metadata) == len(VECTORS)
    with pytest.raises(IndexError):
        source.metadata[len(VECTORS)]
    assert seen[-1][1] == seen[-1][2]
    same(open_source(path, array_key="query"), VECTORS[:4])
    same(open_source(path, vector_column="query"), VECTORS[:4])
    ids = open_source(path, id_column="n").ids
    assert isinstance(ids, np.ndarray)
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, numbers)


def test_npz_bytes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    words = np.array([word.encode() for word in WORDS])
    np.savez(path, x=VECTORS, words=words, bad=np.array([b"\xff"] * len(words)))
    assert open_source(path, id_column="words").ids == WORDS
    refused(path, "'bad'", "not UTF-8", id_column="bad")


def test_npz_choice(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=VECTORS, b=VECTORS, c=np.ones(3))
    refused(path, "several", "a ((37, 12) float32)", "--array")
    refused(path, "has no 'd'", "c ((3,) float64)", array_key="d")
    refused(path, "array 'c' has 1 dimension", array_key="c")
    refused(path, "has no 'w'", "'a', 'b', 'c'", array_key="a", id_column="w")
    refused(path, "array 'c' has shape (3,)", "37 rows", array_key="a", id_column="c")
    refused(path, "ids are one integer or one string", array_key="a", id_column="b")
    refused(path, "expected one string a row", array_key="a", document_column="b")
    np.savez(path, c=np.ones(3))
    refused(path, "no vectors found", "c ((3,) float64)")


def test_npz_objects_and_times(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    days = np.array(["2020-01-01"] * len(VECTORS), "M8[D]")
    np.savez(path, x=VECTORS, days=days, o=np.array([{}] * len(VECTORS)))
    same(open_source(path))
    refused(path, "array 'o'", "pickle", id_column="o")
    refused(path, "no JSON form", metadata_columns=["days"])
    refused(path, "ids are one", id_column="days")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_truncated_and_damaged(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "whole.npz", x=VECTORS)
    data = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "x.npz"
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        refused(path, "cut short or damaged")
    bad = bytearray(data)
    bad[len(data) // 2] ^= 0x55
    path.write_bytes(bad)
    refused(path, "damaged")


def test_npz_with_what_is_no_array(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "text")
        buffer = io.BytesIO()
        np.save(buffer, VECTORS)
        archive.writestr("x.npy", buffer.getvalue())
    same(open_source(path))
    refused(path, "not of the .npy format", array_key="README")


# --- fvecs and bvecs ----------------------------------------------------------------------------


def test_fvecs(tmp_path: Path) -> None:
    write_vecs(tmp_path / "x.fvecs", list(VECTORS), "<f4")
    same(open_source(tmp_path / "x.fvecs"))


def test_bvecs(tmp_path: Path) -> None:
    rows = RNG.integers(0, 256, (50, 7), np.uint8)
    write_vecs(tmp_path / "x.bvecs", list(rows), "u1")
    source = open_source(tmp_path / "x.bvecs")
    assert source.vectors.dtype == np.uint8
    np.testing.assert_array_equal(source.vectors, rows)


def test_fvecs_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecstore.loaders.vecs.BLOCK_BYTES", 200)
    data = write_vecs(tmp_path / "x.fvecs", list(VECTORS), "<f4")
    seen: list[tuple[str, int, int]] = []
    same(open_source(tmp_path / "x.fvecs", progress=lambda *call: seen.append(call)))
    assert seen[-1] == ("check", 37, 37)
    stride = 4 + 12 * 4
    bad = bytearray(data)
    bad[20 * stride : 20 * stride + 4] = np.int32(11).tobytes()
    (tmp_path / "x.fvecs").write_bytes(bad)
    refused(tmp_path / "x.fvecs", "row 20 (byte 1,040) has dimension 11", "12")


def test_fvecs_truncated_at_every_byte(tmp_path: Path) -> None:
    data = write_vecs(tmp_path / "whole.fvecs", list(VECTORS[:3]), "<f4")
    path = tmp_path / "x.fvecs"
    stride = len(data) // 3
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        if length % stride == 0:
            same(open_source(path), VECTORS[: length // stride])
        elif length < 4:
            refused(path, "cut short", f"{length} bytes")
        else:
            row = length // stride
            refused(path, "cut short", f"row {row} begins at byte {row * stride:,}", "52 bytes")


def test_fvecs_varying_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "x.fvecs"
    write_vecs(path, [np.ones(4), np.ones(4), np.ones(5)], "<f4")
    refused(path, "row 2 (byte 40) has dimension 5", "before it 4")
    write_vecs(path, [np.ones(4), np.ones(2), np.ones(4)], "<f4")
    refused(path, "row 1 (byte 20) has dimension 2")


@pytest.mark.parametrize("dim", [0, -3, 2_000_000])
def test_fvecs_of_something_else(tmp_path: Path, dim: int) -> None:
    path = tmp_path / "x.fvecs"
    path.write_bytes(np.int32(dim).tobytes() + bytes(100))
    refused(path, f"row 0 as {dim}", "expected 1 to 1,000,000")
