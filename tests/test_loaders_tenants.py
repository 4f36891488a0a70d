"""The column that says whose each row is: every format there and back, and every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.loader_checks import VECTORS, refused, same, write_jsonl, write_vecs
from vecstore.errors import InvalidArgumentError
from vecstore.loaders import Source, open_source
from vecstore.loaders.common import RecordSpool

ROWS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
OWNERS = ["ann", "bób", "ann"]
SHARED = [["ann", "bób"], ["bób"], ["ann", "bób", "eve"]]
LONG = "ü" * 129
REMEDY = "fill it in or leave out the row"

# What a row may not say, and words of the message.
BAD: list[tuple[Any, tuple[str, ...]]] = [
    (None, ("no tenant", REMEDY)),
    ("", ("the tenant is empty", REMEDY)),
    (LONG, ("of 258 bytes", "at most 256")),
]
BAD_LISTS: list[tuple[Any, tuple[str, ...]]] = [
    ([], ("the list of tenants is empty", "name the owner or leave out the row")),
    (["ann", None], ("place 1 of the list of tenants: no tenant", REMEDY)),
    (["", "ann"], ("place 0 of the list of tenants: the tenant is empty", REMEDY)),
    (["ann", LONG], ("place 1 of the list of tenants", "of 258 bytes")),
]


def owners(source: Source) -> list[Any]:
    """The tenants, once as they are walked through and once as they are asked for."""
    assert source.tenants is not None
    assert len(source.tenants) == len(source.vectors)
    asked = [source.tenants[row] for row in range(len(source.tenants))]
    assert asked == list(source.tenants) == source.tenants[:]
    return asked


def write_table(path: Path, format: str, values: list[Any], key: str = "who") -> None:
    if format == "parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"vector": ROWS, key: values, "n": [7, 8, 9]}), path)
    else:
        records = zip(ROWS, values, [7, 8, 9], strict=True)
        write_jsonl(path, [{"vector": row, key: value, "n": n} for row, value, n in records])


# --- parquet and jsonl --------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
@pytest.mark.parametrize("values", [OWNERS, SHARED], ids=["names", "lists"])
def test_tables(tmp_path: Path, format: str, values: list[Any]) -> None:
    path = tmp_path / f"x.{format}"
    write_table(path, format, values)
    source = open_source(path, tenant_column="who")
    same(source, np.array(ROWS, np.float32))
    assert owners(source) == values
    assert isinstance(source.tenants, RecordSpool)
    assert source.metadata is None
    assert open_source(path).tenants is None


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_tables_take_it_into_metadata_only_if_asked(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"x.{format}"
    write_table(path, format, OWNERS)
    source = open_source(path, tenant_column="who", metadata_columns=["n"])
    assert source.metadata is not None
    assert list(source.metadata) == [{"n": 7}, {"n": 8}, {"n": 9}]
    source = open_source(path, tenant_column="who", metadata_columns=["n", "who"])
    assert owners(source) == OWNERS
    assert source.metadata is not None
    assert source.metadata[1] == {"n": 8, "who": "bób"}


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_tables_may_use_a_column_twice(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"x.{format}"
    write_table(path, format, ["a", "b", "c"], "id")
    source = open_source(path, tenant_column="id", document_column="id", metadata_columns=["id"])
    assert source.ids == owners(source) == ["a", "b", "c"]
    assert source.documents is not None
    assert list(source.documents) == ["a", "b", "c"]
    assert source.metadata is not None
    assert source.metadata[2] == {"id": "c"}


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
@pytest.mark.parametrize(("value", "words"), [*BAD, *BAD_LISTS])
def test_tables_refuse(tmp_path: Path, format: str, value: Any, words: tuple[str, ...]) -> None:
    path = tmp_path / f"x.{format}"
    write_table(path, format, [["ann"] if isinstance(value, list) else "ann"] * 2 + [value])
    place = ("row 2: column 'who': ",) if format == "parquet" else ("line 3: key 'who': ",)
    refused(path, *place, *words, tenant_column="who")
    assert open_source(path).tenants is None


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([1, 2, 3], "1 is no tenant"),
        ([True, True, True], "True is no tenant"),
        ([[1.5], [2.5], [3.5]], "place 0 of the list of tenants: 1.5 is no tenant"),
        ([{"a": "b" * 99}] * 3, "bbb… is no tenant"),
        ([[["ann"]]] * 3, "['ann'] is no tenant"),
    ],
)
def test_tables_refuse_what_is_no_name(
    tmp_path: Path, format: str, values: list[Any], shown: str
) -> None:
    path = tmp_path / f"x.{format}"
    write_table(path, format, values)
    place = "row 0: column 'who': " if format == "parquet" else "line 1: key 'who': "
    words = ("tenants are strings, or lists of strings with the owner first",)
    refused(path, place, shown, *words, tenant_column="who", vector_column="vector")


def test_tables_without_the_column(tmp_path: Path) -> None:
    write_table(tmp_path / "x.jsonl", "jsonl", OWNERS)
    refused(
        tmp_path / "x.jsonl",
        "line 1: no 'owner'; its keys are 'vector', 'who', 'n'",
        "tenant_column (--tenant-column)",
        tenant_column="owner",
    )
    write_jsonl(tmp_path / "y.jsonl", [{"vector": [1], "who": "ann"}, {"vector": [1]}])
    refused(tmp_path / "y.jsonl", "line 2: no 'who'", tenant_column="who")
    write_table(tmp_path / "x.parquet", "parquet", OWNERS)
    refused(
        tmp_path / "x.parquet",
        "has no 'owner'. It has: 'vector', 'who', 'n'",
        tenant_column="owner",
    )


@pytest.mark.parametrize("kind", ["categories", "large", "fixed"])
def test_parquet_kinds_of_names(tmp_path: Path, kind: str, monkeypatch: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr("vecstore.loaders.parquet.BLOCK_BYTES", 20)
    names = pa.array(OWNERS).dictionary_encode()
    if kind == "large":
        names = pa.array(SHARED, pa.large_list(pa.large_string()))
    elif kind == "fixed":
        names = pa.array([["ann", "eve"]] * 3, pa.list_(pa.string(), 2))
    write_table(tmp_path / "x.parquet", "parquet", names)
    source = open_source(tmp_path / "x.parquet", tenant_column="who")
    assert owners(source) == names.to_pylist()


# --- npz and hdf5 -------------------------------------------------------------------------------

NAMES = [f"tenant {row % 5} ü" for row in range(len(VECTORS))]


def write_arrays(path: Path, **arrays: Any) -> None:
    if path.suffix == ".npz":
        np.savez(path, vectors=VECTORS, **arrays)
        return
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["vectors"] = VECTORS
        for key, values in arrays.items():
            text = np.asarray(values).dtype.kind == "U"
            file[key] = np.asarray(values, object) if text else values


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_arrays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    write_arrays(path, who=NAMES, raw=np.char.encode(NAMES, "utf-8"), n=np.arange(len(NAMES)))
    source = open_source(path, tenant_column="who", metadata_columns=["n"])
    same(source)
    assert owners(source) == NAMES
    assert source.metadata is not None
    assert source.metadata[3] == {"n": 3}
    assert owners(open_source(path, tenant_column="raw")) == NAMES
    both = open_source(path, tenant_column="who", metadata_columns=["who"])
    assert owners(both) == NAMES
    assert both.metadata is not None
    assert both.metadata[3] == {"who": NAMES[3]}
    assert open_source(path).tenants is None


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_arrays_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    count = len(VECTORS)
    write_arrays(
        path,
        numbers=np.arange(count),
        floats=np.zeros(count),
        flags=np.ones(count, bool),
        gap=[*NAMES[:5], "", *NAMES[6:]],
        long=[*NAMES[:-1], LONG],
        few=NAMES[:5],
        wide=np.array([NAMES, NAMES]).T,
        latin=np.array([b"\xff"] * count),
    )
    for key in ("numbers", "floats", "flags", "wide"):
        words = (f"array {key!r} has shape", "tenants are one string a row", "astype(str)")
        refused(path, *words, tenant_column=key)
    refused(path, "array 'gap', row 5: the tenant is empty", REMEDY, tenant_column="gap")
    refused(path, "array 'long', row 36: tenant is", "of 258 bytes", tenant_column="long")
    refused(path, "They must have the same length", tenant_column="few")
    refused(path, "'latin'", "not UTF-8", tenant_column="latin")
    refused(path, "has no 'nope'", tenant_column="nope")


def test_npz_refuses_surrogates_and_pickles(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_arrays(path, who=["\ud800", *NAMES[1:]])
    refused(path, "array 'who', row 0", "not valid Unicode", tenant_column="who")
    write_arrays(path, who=np.array(NAMES, object))
    refused(path, "who", tenant_column="who")


def test_hdf5_path_of_the_array(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.h5", **{"deep/who": NAMES})
    assert owners(open_source(tmp_path / "x.h5", tenant_column="/deep/who")) == NAMES


# --- formats that hold nothing but vectors ------------------------------------------------------


@pytest.mark.parametrize("format", ["npy", "fvecs", "bvecs"])
def test_no_use_for_it(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"x.{format}"
    if format == "npy":
        np.save(path, VECTORS)
    else:
        write_vecs(path, list(VECTORS), "<f4" if format == "fvecs" else "u1")
    words = rf"tenant_column \(--tenant-column\) says nothing about a {format} file. Leave it out"
    with pytest.raises(InvalidArgumentError, match=words):
        open_source(path, tenant_column="who")
