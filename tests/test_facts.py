"""Metadata and documents: what goes in comes back equal, what is no JSON is refused."""

from __future__ import annotations

import collections
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vecstore
from tests.store_checks import failure, sound_store
from vecstore import InvalidArgumentError

UNITS = np.eye(4, dtype=np.float32)


class Colour(enum.IntEnum):
    RED = 1


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[vecstore.Collection]:
    with sound_store(tmp_path / "store") as opened:
        yield opened.collection("docs", dim=4)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def shared_docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vecstore.Collection]:
    with sound_store(tmp_path_factory.mktemp("facts") / "store") as opened:
        yield opened.collection("docs", dim=4)


@given(
    metadata=st.none() | st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    document=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
)
def test_facts_are_returned_equal(
    shared_docs: vecstore.Collection, metadata: Any, document: str | None
) -> None:
    shared_docs.upsert([1, 2], UNITS[:2], [metadata, {"k": 1}], [document, "other"])
    hit, other = shared_docs.get([1, 2])
    assert (hit.metadata, hit.document) == (metadata, document)
    assert repr(hit.metadata) == repr(metadata), "1 is not 1.0 and not True"
    assert (other.metadata, other.document) == ({"k": 1}, "other")
    found = shared_docs.query(UNITS[0], k=1, include=["metadata", "document"])[0]
    assert (found.metadata, found.document) == (metadata, document)


@pytest.mark.parametrize(
    "value",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": b"bytes"},
        {"x": (1, 2)},
        {"x": {1: "int key"}},
        {"x": ...},
        {"x": np.int64(1)},
        {"x": np.array([1])},
        {"x": "\ud800"},
        {"\ud800": 1},
        {"x": 2**64},
        {1: 2},
        [("x", 1)],
        "x",
        7,
    ],
    ids=repr,
)
def test_metadata_that_is_no_json_is_refused(docs: vecstore.Collection, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="row 1"):
        docs.upsert([1, 2], UNITS[:2], [{"fine": 1}, value])
    assert len(docs) == 0


@pytest.mark.parametrize("value", [np.float64(0.5), np.str_("y"), Colour.RED], ids=repr)
def test_values_of_derived_classes(docs: vecstore.Collection, value: Any) -> None:
    """Refused with a typed error, or stored as the JSON value that they equal."""
    error = failure(lambda: docs.upsert([1], UNITS[:1], [{"x": value}]), InvalidArgumentError)
    if error is None:
        assert docs.get(1).metadata == {"x": value}
    else:
        assert "row 0" in str(error)


def test_metadata_that_holds_itself(docs: vecstore.Collection) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"d": deep}
    for value in (loop, deep):
        with pytest.raises(InvalidArgumentError, match="nested deeper"):
            docs.upsert([1], UNITS[:1], [value])


def test_dicts_of_other_classes(docs: vecstore.Collection) -> None:
    ordered = collections.OrderedDict(b=1, a=[True, None])
    docs.upsert([1], UNITS[:1], [ordered])
    assert docs.get(1).metadata == {"b": 1, "a": [True, None]}
    docs.upsert(1, UNITS[0], {"scalar": 1}, "form")
    assert (docs.get(1).metadata, docs.get(1).document) == ({"scalar": 1}, "form")


@pytest.mark.parametrize("bad", [7, b"x", ["x"], "\ud800"], ids=repr)
def test_bad_documents_are_refused(docs: vecstore.Collection, bad: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="row 1"):
        docs.upsert([1, 2], UNITS[:2], documents=["fine", bad])
    assert len(docs) == 0
