"""Tenants and filters on the command line: whose rows are loaded, and who reads which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.cli_checks import failed, run, run_json
from tests.loader_checks import write_jsonl

ROWS = [
    {"id": 1, "vector": [1, 0], "owner": "ann", "metadata": {"year": 2020, "lang": "en"}},
    {"id": 1, "vector": [0, 1], "owner": "bob", "metadata": {"year": 2021, "lang": "de"}},
    {"id": 2, "vector": [1, 1], "owner": ["ann", "bob"], "metadata": {"year": 2022}},
    {"id": 3, "vector": [3, 3], "owner": "eve\u001b[31m", "metadata": None},
]
NEW = ("-c", "c")
OWNERS = ("--tenant-column", "owner")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)
    return path


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """A file of two rows without ids."""
    path = tmp_path / "x.npy"
    np.save(path, np.eye(2))
    return path


@pytest.fixture
def store(tmp_path: Path, file: Path) -> Path:
    """A store with one collection of three tenants."""
    run("load", tmp_path / "store", file, *NEW, *OWNERS)
    return tmp_path / "store"


def seen(store: Path, *args: Any) -> list[tuple[Any, Any]]:
    """Ids and tenants of the hits of a query, nearest first."""
    answer = run_json("query", store, *args)
    return [(hit["id"], hit.get("tenant")) for hit in answer["queries"][0]["hits"]]


def rows_of(store: Path) -> int:
    count = run_json("stats", store)["collections"]["c"]["rows"]
    assert isinstance(count, int)
    return count


# --- load -------------------------------------------------------------------------------------


def test_load_by_column(tmp_path: Path, file: Path) -> None:
    store = tmp_path / "store"
    loaded = run_json("load", store, file, *NEW, *OWNERS)
    for changing in ("seconds", "disk_bytes"):
        assert loaded.pop(changing) > 0
    assert loaded == {
        "store": f"{store}",
        "collection": "c",
        "rows_loaded": 4,
        "rows": 4,
        "tenants": 3,
        "dim": 2,
    }
    shown = run("load", store, file, *OWNERS).stdout
    assert "4 rows × 2 loaded into 'c'" in shown
    assert "it has 4 rows of 3 tenants, the store takes" in shown
    with vecstore.open(store, "r") as opened:
        docs = opened.collection("c", tenants=True)
        assert docs.tenants() == ["ann", "bob", "eve\u001b[31m"]
        assert docs.tenant("bob").count() == 2
        assert docs.tenant("bob").get(2).tenant == "ann"
    assert run_json("check", store)["sound"] is True


def test_load_for_one_tenant(tmp_path: Path, file: Path) -> None:
    store = tmp_path / "store"
    write_jsonl(file, [{"id": i, "vector": [i, 1]} for i in range(3)])
    assert run_json("load", store, file, *NEW, "--tenant", "ann")["tenants"] == 1
    loaded = run_json("load", store, file, "--tenant", "bob")
    assert (loaded["rows_loaded"], loaded["rows"], loaded["tenants"]) == (3, 6, 2)
    assert "it has 6 rows of 2 tenants" in run("load", store, file, "--tenant", "bob").stdout
    assert seen(store, "--vector", "[2, 1]", "-k", 2, "--tenant", "bob") == [(2, "bob"), (1, "bob")]


def test_load_numbers_the_rows_of_a_tenant(tmp_path: Path, numbered: Path) -> None:
    store = tmp_path / "store"
    assert "of 1 tenant," in run("load", store, numbered, *NEW, "--tenant", "ann").stdout
    message = failed("load", store, numbered, "--tenant", "ann", status=2)
    assert "The tenant 'ann' has 2 rows" in message
    assert "--first-id" in message
    assert run_json("load", store, numbered, "--tenant", "bob")["rows"] == 4
    assert run_json("load", store, numbered, "--tenant", "ann", "--first-id", 0)["rows"] == 4
    assert run_json("load", store, numbered, "--tenant", "ann", "--first-id", 2)["rows"] == 6
    row = run_json("get", store, 3, "--tenant", "ann", "--vectors")["rows"][0]
    assert row == {"id": 3, "tenant": "ann", "vector": [0.0, 1.0]}


def test_load_numbers_the_rows_of_a_column(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "x.npz"
    np.savez(file, vectors=np.eye(2), owner=["ann", "bob"])
    assert run_json("load", store, file, *NEW, *OWNERS)["rows"] == 2
    message = failed("load", store, file, *OWNERS, status=2)
    assert "The collection has 2 rows" in message
    assert "--first-id" in message
    assert run_json("load", store, file, *OWNERS, "--first-id", 2)["rows"] == 4
    assert run_json("get", store, 2, 3, "--tenant", "bob", status=1)["rows"] == [
        None,
        {"id": 3, "tenant": "bob"},
    ]


def test_load_needs_tenants_where_there_are_some(store: Path, file: Path, numbered: Path) -> None:
    for source in (file, numbered):
        message = failed("load", store, source, status=2)
        assert message == (
            "error: Collection 'c' has tenants. Say whose the rows are with --tenant or "
            "--tenant-column.\n"
        )
    assert rows_of(store) == 4


@pytest.mark.parametrize("option", [OWNERS, ("--tenant", "ann")])
def test_load_refuses_tenants_where_there_are_none(
    tmp_path: Path, file: Path, option: tuple[str, str]
) -> None:
    store, plain = tmp_path / "plain", tmp_path / "plain.jsonl"
    write_jsonl(plain, [{"id": 1, "vector": [1, 0]}])
    run("load", store, plain, *NEW)
    message = failed("load", store, file, *option, status=1)
    assert "Collection 'c' has no tenants" in message
    assert "Leave --tenant and --tenant-column out" in message
    assert rows_of(store) == 1


def test_load_usage(tmp_path: Path, file: Path, numbered: Path) -> None:
    store = tmp_path / "store"
    both = (*OWNERS, "--tenant", "ann")
    assert "Give one of --tenant and --tenant-column" in failed(
        "load", store, file, *NEW, *both, status=2
    )
    assert "tenant is ''; name one" in failed("load", store, file, *NEW, "--tenant", "", status=2)
    message = failed("load", store, file, *NEW, "--tenant", "x" * 300, status=2)
    assert "of 300 bytes" in message
    message = failed("load", store, numbered, *NEW, *OWNERS, status=2)
    assert "tenant_column (--tenant-column) says nothing about a npy file" in message
    assert not store.exists()


def test_load_refuses_a_codec_that_learns(tmp_path: Path, file: Path) -> None:
    store = tmp_path / "store"
    message = failed("load", store, file, *NEW, *OWNERS, "--codec", "pq1", status=2)
    assert "learns from the rows of all tenants" in message
    assert run_json("stats", store)["collections"] == {}


def test_load_column_at_fault(tmp_path: Path, file: Path) -> None:
    store = tmp_path / "store"
    write_jsonl(file, [ROWS[0], {**ROWS[1], "owner": ""}])
    message = failed("load", store, file, *NEW, *OWNERS, status=1)
    assert "rows.jsonl: line 2: key 'owner': the tenant is empty; fill it in" in message
    message = failed("load", store, file, *NEW, "--tenant-column", "who", status=1)
    assert "line 1: no 'who'" in message
    assert "--tenant-column" in message
    assert not store.exists()


def test_load_rows_at_fault(tmp_path: Path, store: Path, file: Path) -> None:
    """What the collection says is said of the file, and a collection made for it goes again."""
    write_jsonl(file, [ROWS[0], ROWS[0]])
    for target, status_rows in ((store, 4), (tmp_path / "other", None)):
        message = failed("load", target, file, *NEW, *OWNERS, status=1)
        assert "rows.jsonl: Id 1 occurs twice" in message
        collections = run_json("stats", target)["collections"]
        assert collections.get("c", {}).get("rows") == status_rows
    with vecstore.open(store) as opened:
        opened.collection("c").set_quota("eve", rows=1)
    write_jsonl(file, [{"id": i, "vector": [i, 1]} for i in range(3)])
    message = failed("load", store, file, "--tenant", "eve", status=1)
    assert "rows.jsonl: " in message
    assert "eve" in message
    assert rows_of(store) == 4


# --- query and get ----------------------------------------------------------------------------


def test_query_as_one_and_as_several(store: Path) -> None:
    assert seen(store, "--vector", "[1, 0]", "--tenant", "ann") == [(1, "ann"), (2, "ann")]
    assert seen(store, "--vector", "[1, 0]", "--tenant", "bob") == [(2, "ann"), (1, "bob")]
    together = ("--tenant", "ann", "--tenant", "bob")
    assert seen(store, "--vector", "[1, 0]", *together) == [(1, "ann"), (2, "ann"), (1, "bob")]
    answer = run_json("query", store, "--vector", "[1, 0]", *together, "--recall", 1)
    answer.pop("queries")
    assert answer == {
        "store": f"{store}",
        "collection": "c",
        "tenants": ["ann", "bob"],
        "k": 10,
        "recall": 1.0,
        "where": None,
    }
    assert seen(store, "--vector", "[1, 0]", "--tenant", "nobody") == []


def test_query_shows_the_tenant(store: Path) -> None:
    shown = run("query", store, "--vector", "[1, 0]", "--tenant", "bob").stdout
    for word in ("tenant", "ann", "bob", '{"year":2022}'):
        assert word in shown
    shown = run("query", store, "--vector", "[1, 0]", "--tenant", "eve\u001b[31m").stdout
    assert "eve [31m" in shown
    assert "\u001b" not in shown


def test_query_by_id_leaves_out_the_row_but_not_its_namesake(store: Path) -> None:
    assert seen(store, "--id", 1, "--tenant", "ann") == [(2, "ann")]
    assert seen(store, "--id", 1, "--tenant", "bob") == [(2, "ann")]
    assert seen(store, "--id", 2, "--tenant", "bob") == [(1, "bob")]
    assert seen(store, "--id", 1, "--tenant", "ann", "--tenant", "bob", "-k", 2) == [
        (2, "ann"),
        (1, "bob"),
    ]


def test_query_by_file_as_a_tenant(store: Path, numbered: Path) -> None:
    answer = run_json("query", store, "--vector-file", numbered, "--tenant", "bob", "-k", 1)
    assert [query["hits"][0]["id"] for query in answer["queries"]] == [2, 1]


def test_get_as_a_tenant(store: Path) -> None:
    answer = run_json("get", store, 1, 2, "--tenant", "bob")
    assert answer == {
        "store": f"{store}",
        "collection": "c",
        "tenants": ["bob"],
        "rows": [
            {"id": 1, "metadata": {"year": 2021, "lang": "de"}, "tenant": "bob"},
            {"id": 2, "metadata": {"year": 2022}, "tenant": "ann"},
        ],
    }
    together = ("--tenant", "bob", "--tenant", "eve\u001b[31m")
    assert run_json("get", store, 3, *together)["rows"][0]["id"] == 3
    shown = run("get", store, 2, "--tenant", "bob").stdout
    assert "tenant" in shown
    assert "ann" in shown


def test_rows_of_others_are_unknown(store: Path) -> None:
    for command in (("get", store, 3), ("query", store, "--id", 3)):
        result = run(*command, "--tenant", "ann", status=1)
        assert result.stderr == "error: No row of tenant 'ann' of collection 'c' has the id '3'.\n"
        result = run(*command, "--tenant", "ann", "--tenant", "bob", status=1)
        assert "No row of tenants 'ann', 'bob' of collection 'c'" in result.stderr


COMMANDS = [("get", 1), ("query", "--id", 1), ("query", "--vector", "[1, 0]")]


@pytest.mark.parametrize("command", COMMANDS)
def test_tenant_is_required(store: Path, command: tuple[Any, ...]) -> None:
    verb, *rest = command
    message = failed(verb, store, *rest, status=2)
    assert message == (
        "error: Collection 'c' has tenants. Name one with --tenant, or several, which are then "
        "read as one.\n"
    )
    assert "tenant is ''; name one" in failed(verb, store, *rest, "--tenant", "", status=2)
    assert "of 300 bytes" in failed(verb, store, *rest, "--tenant", "x" * 300, status=2)


@pytest.mark.parametrize("command", COMMANDS)
def test_tenant_is_refused(tmp_path: Path, numbered: Path, command: tuple[Any, ...]) -> None:
    verb, *rest = command
    store = tmp_path / "store"
    run("load", store, numbered, *NEW)
    message = failed(verb, store, *rest, "--tenant", "ann", status=2)
    assert "Collection 'c' has no tenants" in message
    answer = run_json(verb, store, *rest)
    assert answer["tenants"] is None
    assert "tenant" not in run(verb, store, *rest).stdout


# --- where ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('{"year": {"$gte": 2021}}', [(2, "ann"), (1, "bob")]),
        ('{"lang": "de"}', [(1, "bob")]),
        ('{"lang": "fr"}', []),
        ('{"$not": {"lang": {"$exists": true}}}', [(2, "ann")]),
        ("{}", [(1, "ann"), (2, "ann"), (1, "bob")]),
    ],
)
def test_where(store: Path, where: str, expected: list[tuple[int, str]]) -> None:
    together = ("--tenant", "ann", "--tenant", "bob")
    assert seen(store, "--vector", "[1, 0]", *together, "--where", where) == expected


def test_where_without_tenants(tmp_path: Path, file: Path) -> None:
    store = tmp_path / "store"
    write_jsonl(file, [{**row, "id": i} for i, row in enumerate(ROWS)])
    run("load", store, file, *NEW)
    condition = ("--where", '{"year": {"$lt": 2022}}')
    assert seen(store, "--vector", "[1, 0]", *condition) == [(0, None), (1, None)]
    assert seen(store, "--id", 2, *condition, "-k", 1) in ([(0, None)], [(1, None)])
    answer = run_json("query", store, "--vector", "[1, 0]", *condition)
    assert answer["where"] == {"year": {"$lt": 2022}}
    assert '"year":2021' in run("query", store, "--vector", "[1, 0]", *condition).stdout


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("{", ("--where '{' is not JSON", "Write an object")),
        ("lang = en", ("--where 'lang = en' is not JSON",)),
        ("[" * 5_000, ("is not JSON",)),
        ("[1]", ("of type list", "plain dict")),
        ("null", ("--where is null", "Write an object")),
        ('{"year": {"$near": 1}}', ("$near",)),
    ],
)
def test_where_at_fault(store: Path, where: str, words: tuple[str, ...]) -> None:
    asked = ("query", store, "--vector", "[1, 0]", "--tenant", "ann", "--where", where)
    message = failed(*asked, status=2)
    for word in words:
        assert word in message


# --- stats ------------------------------------------------------------------------------------


def test_stats_count_tenants(store: Path, numbered: Path) -> None:
    run("load", store, numbered, "-c", "plain")
    found = run_json("stats", store)["collections"]
    assert (found["c"]["tenants"], found["c"]["shared_rows"]) == (3, 1)
    assert found["plain"]["shared_rows"] == 0
    lines = run("stats", store, "-c", "c").stdout.splitlines()
    assert any("tenants" in line and "3" in line for line in lines)
