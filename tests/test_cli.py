"""The command line: answers, exit status, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.cli_checks import GLOVE, failed, fixture_words, run, run_json, spawn
from tests.crash.builds import base, counted, few_are_many
from tests.store_checks import flip_byte, small_limits
from vecstore import demo
from vecstore.layout import HEADER_DTYPE, ExtentKind

COMMANDS = ("demo", "load", "query", "get", "stats", "check", "compact", "backup", "warmup")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one collection of 5,000 words."""
    store = tmp_path_factory.mktemp("cli") / "store"
    args = ("--collection", "words", "--metric", "cosine", "--ids-column", "words")
    loaded = run_json("load", store, GLOVE, *args)
    assert loaded.pop("seconds") > 0
    assert loaded.pop("disk_bytes") > 5_000 * 50 * 4
    assert loaded == {
        "store": f"{store}",
        "collection": "words",
        "rows_loaded": 5_000,
        "rows": 5_000,
        "tenants": None,
        "dim": 50,
    }
    return store


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A file of three rows with all there can be."""
    path = tmp_path / "rows.jsonl"
    records = [
        {"id": i, "vector": [i, 1.0], "metadata": {"n": i}, "document": f"text\u001b[31m {i}"}
        for i in range(3)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# --- help, version, usage ---------------------------------------------------------------------


def test_help_and_version() -> None:
    shown = run("--help").stdout
    for command in COMMANDS:
        assert command in shown
        assert "--json" in run(command, "--help").stdout
    assert run("--version").stdout.startswith("vecstore ")
    assert "demo" in run(status=2).stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from vecstore.cli import app\n"
        "try: app(['load', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'faiss', 'lmdb', 'numba', 'pyarrow', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "words_of_it"),
    [
        (("bogus",), ("No such command", "--help")),
        (("load",), ("Missing argument 'STORE'", "load --help")),
        (("load", "s", "f.npy", "--metric", "hamming"), ("--metric",)),
        (("load", "s", "f.npy", "--raw", "int4"), ("--raw",)),
        (("load", "s", "f.npy", "--dim", "0"), ("--dim",)),
        (("load", "s", "f.npy", "--format", "csv"), ("--format",)),
        (("query", "s", "-k", "0", "--id", "x"), ("-k",)),
        (("query", "s", "--recall", "2", "--id", "x"), ("--recall",)),
        (("query", "s"), ("Give one of --id, --vector and --vector-file",)),
        (("query", "s", "--id", "x", "--vector", "[1]"), ("Give one of",)),
        (("query", "s", "--vector", "[1"), ("not a JSON list of numbers",)),
        (("query", "s", "--vector", '["a"]'), ("not a JSON list of numbers",)),
        (("get", "s"), ("ID",)),
        (("demo", "--rows", "5"), ("5",)),
    ],
)
def test_usage_errors(
    args: tuple[str, ...], words_of_it: tuple[str, ...], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "find_words", fixture_words)
    message = failed(*args, status=2)
    for word in words_of_it:
        assert word in message
    assert list(tmp_path.iterdir()) == []


# --- load -------------------------------------------------------------------------------------


def test_load_text_and_everything(tmp_path: Path, lines: Path) -> None:
    store = tmp_path / "store"
    shown = run("load", store, lines, "--collection", "c", "--dim", 2).stdout
    assert "3 rows × 2 loaded into 'c'" in shown
    rows = run_json("get", store, 0, 2, "--vectors")["rows"]
    assert rows[1] == {
        "id": 2,
        "metadata": {"n": 2},
        "document": "text\u001b[31m 2",
        "vector": [2.0, 1.0],
    }
    assert "\u001b" not in run("get", store, 0).stdout


def test_load_numbers_the_rows(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "x.npy"
    np.save(file, np.eye(4))
    run("load", store, file, "-c", "c")
    message = failed("load", store, file, status=2)
    assert "4 rows" in message
    assert "--first-id" in message
    assert run_json("load", store, file, "--first-id", 0)["rows"] == 4
    assert run_json("load", store, file, "--first-id", 4)["rows"] == 8
    assert run_json("get", store, 7, "--vectors")["rows"][0]["vector"] == [0, 0, 0, 1]


def test_load_in_a_raw_form(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "x.npy"
    np.save(file, np.array([[0.1, 1.0]]))
    run("load", store, file, "-c", "c", "--raw", "float16")
    assert run_json("stats", store)["collections"]["c"]["raw"] == "float16"
    vector = run_json("get", store, 0, "--vectors")["rows"][0]["vector"]
    assert vector == [float(np.float16(0.1)), 1.0]
    assert "float16" in failed("load", store, file, "-c", "c", "--raw", "int8", status=1)


def test_load_refuses_first_id_beside_ids(tmp_path: Path, lines: Path) -> None:
    store = tmp_path / "store"
    assert "Leave --first-id out" in failed(
        "load", store, lines, "-c", "c", "--first-id", 3, status=2
    )
    assert run_json("stats", store)["collections"] == {}


def test_load_file_at_fault(tmp_path: Path, lines: Path) -> None:
    store = tmp_path / "store"
    assert "no such file" in failed("load", store, tmp_path / "no.npy", "-c", "c", status=1)
    with lines.open("a") as file:
        file.write("{")
    assert "line 4: invalid JSON" in failed("load", store, lines, "-c", "c", status=1)
    np.save(tmp_path / "x.npy", np.eye(3))
    message = failed("load", store, tmp_path / "x.npy", "-c", "c", "--dim", 2, status=1)
    assert "3 dimensions; --dim asks for 2" in message
    assert "--collection" in failed("load", store, tmp_path / "x.npy", status=2)
    assert not store.exists()


def test_load_vectors_at_fault(tmp_path: Path) -> None:
    store = tmp_path / "store"
    vectors = np.ones((4, 3))
    vectors[2, 1] = np.nan
    np.save(tmp_path / "x.npy", vectors)
    message = failed("load", store, tmp_path / "x.npy", "-c", "c", status=1)
    assert "x.npy: " in message
    assert "2" in message
    assert run_json("stats", store)["collections"] == {}
    np.save(tmp_path / "y.npy", np.ones((2, 3)))
    run("load", store, tmp_path / "y.npy", "-c", "c")
    failed("load", store, tmp_path / "x.npy", "-c", "c", "--first-id", 0, status=1)
    assert run_json("stats", store)["collections"]["c"]["rows"] == 2


def test_load_ids_at_fault(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for bad in ("a", "x" * 300):
        np.savez(tmp_path / "x.npz", vectors=np.eye(2), names=np.array(["a", bad]))
        args = ("load", store, tmp_path / "x.npz", "-c", "c", "--ids-column", "names")
        assert "x.npz: " in failed(*args, status=1)


def test_load_into_another_shape_or_metric(tmp_path: Path, words: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    failed("load", words, tmp_path / "x.npy", "--first-id", 0, status=1)
    failed("load", words, GLOVE, "--ids-column", "words", "--metric", "l2", status=1)


def test_load_beside_another_writer(tmp_path: Path, lines: Path) -> None:
    store = tmp_path / "store"
    with vecstore.open(store):
        assert "writer" in failed("load", store, lines, "-c", "c", status=1).lower()


# --- query and get ----------------------------------------------------------------------------


def test_query_by_id(words: Path) -> None:
    answer = run_json("query", words, "--id", "king", "-k", 5)
    assert {key: answer[key] for key in ("store", "collection", "k", "recall")} == {
        "store": f"{words}",
        "collection": "words",
        "k": 5,
        "recall": None,
    }
    (asked,) = answer["queries"]
    assert asked["query"] == "king"
    assert asked["latency_ms"] > 0
    found = [hit["id"] for hit in asked["hits"]]
    assert len(found) == 5
    assert "king" not in found
    assert "queen" in found
    distances = [hit["distance"] for hit in asked["hits"]]
    assert distances == sorted(distances)
    assert "queen" in run("query", words, "--id", "king").stdout


@pytest.mark.parametrize("saved", ["one.npy", "many.npy", "many.npz"])
def test_query_by_file(tmp_path: Path, words: Path, saved: str) -> None:
    with np.load(GLOVE) as archive:
        held = dict(archive)
    asked = held["query"][:7]
    file = tmp_path / saved
    if saved == "many.npz":
        np.savez(file, asked)
    else:
        np.save(file, asked if saved == "many.npy" else asked[0])
    answer = run_json("query", words, "--vector-file", file, "--recall", 1)
    assert [query["query"] for query in answer["queries"]] == (
        [0] if saved == "one.npy" else list(range(7))
    )
    for query, exact in zip(answer["queries"], held["gt"], strict=False):
        assert [hit["id"] for hit in query["hits"]] == held["words"][exact].tolist()


def test_query_by_vector(tmp_path: Path, lines: Path) -> None:
    store = tmp_path / "store"
    run("load", store, lines, "-c", "c")
    (asked,) = run_json("query", store, "--vector", "[2, 1]", "-k", 1)["queries"]
    assert asked["hits"] == [
        {"id": 2, "distance": 0.0, "metadata": {"n": 2}, "document": "text\u001b[31m 2"}
    ]
    shown = run("query", store, "--vector", "[2, 1]").stdout
    assert '{"n":2}' in shown
    assert "\u001b" not in shown
    message = failed("query", store, "--vector", "[2, 1, 0]", status=1)
    assert "3" in message
    assert "2" in message


def test_query_and_get_of_unknown_ids(words: Path) -> None:
    for unknown in ("no such word", "123456789", "-1", "00123456789"):
        message = failed("query", words, "--id", unknown, status=1)
        assert "'words'" in message
        assert f"'{unknown}'" in message
    answer = run_json("get", words, "king", "no such word", status=1)
    assert answer["rows"] == [{"id": "king"}, None]
    result = run("get", words, "king", "no such word", status=1)
    assert "king" in result.stdout
    assert result.stderr == "error: No row of collection 'words' has the id 'no such word'.\n"


# --- stores at fault, several collections -----------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("stats",),
        ("check",),
        ("check", "--repair"),
        ("compact",),
        ("backup", "copy"),
        ("get", "x"),
        ("query", "--vector", "[1]"),
    ],
)
def test_no_store(tmp_path: Path, command: tuple[str, ...]) -> None:
    verb, *rest = command
    missing = tmp_path / "missing"
    assert f"{missing}" in failed(verb, missing, *rest, status=1)
    assert not missing.exists()
    (tmp_path / "other").write_text("something else")
    failed(verb, tmp_path, *rest, status=1)
    failed(verb, tmp_path / "other", *rest, status=1)


def test_choice_of_collection(tmp_path: Path, lines: Path) -> None:
    store = tmp_path / "store"
    vecstore.open(store).close()
    message = failed("get", store, "x", status=1)
    assert "holds no collection" in message
    assert "vecstore load" in message
    for name in ("a", "b"):
        run("load", store, lines, "-c", name)
    message = failed("get", store, "1", status=2)
    assert "2 collections: a, b" in message
    assert "--collection" in message
    assert "c" in failed("get", store, "1", "-c", "c", status=1)
    assert run_json("get", store, "1", "-c", "b")["rows"][0]["id"] == 1
    assert set(run_json("stats", store)["collections"]) == {"a", "b"}
    assert set(run_json("stats", store, "-c", "b")["collections"]) == {"b"}


def test_stats(words: Path) -> None:
    found = run_json("stats", words)
    assert found["disk_bytes"] > 0
    facts = found["collections"]["words"]
    expected = "rows dead_rows postings tree_nodes tenants disk_bytes ram_bytes extents tail_rows"
    assert {*expected.split(), "codec", "calibration"} <= set(facts)
    assert facts["rows"] == 5_000
    shown = run("stats", words).stdout
    assert "5,000" in shown
    assert "codec" in shown


def test_check(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_json("check", words) == {"store": f"{words}", "sound": True, "violations": []}
    assert "is sound" in run("check", words).stdout
    with vecstore.open(words, "r") as store:
        kind = type(store)
    bad = SimpleNamespace(invariant="extents", where="extent 7", detail="3 bytes\nare missing")
    monkeypatch.setattr(kind, "check", lambda self: [bad])
    result = run("check", words, status=1)
    assert result.stdout == "extents: extent 7: 3 bytes are missing\n1 violation.\n"
    result = run("check", words, "--json", status=1)
    assert json.loads(result.stdout) == {
        "store": f"{words}",
        "sound": False,
        "violations": [vars(bad)],
    }


def test_check_and_repair(tmp_path: Path, words: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(words, store)
    postings = next(f for f in (store / "extents").iterdir() if kind_of(f) == ExtentKind.POSTINGS)
    postings.unlink()
    before = json.loads(run("check", store, "--json", status=1).stdout)
    assert [found["invariant"] for found in before["violations"]] == ["extents-present"]
    found = run_json("check", store, "--repair")
    assert found.pop("repair") == [
        "Collection 'words': postings were made anew from its 5000 rows (damaged: postings "
        f"{int(postings.stem)})."
    ]
    assert found == {"store": f"{store}", "sound": True, "violations": []}
    assert run("check", store, "--repair").stdout == f"{store} is sound.\n"
    (asked,) = run_json("query", store, "--id", "king", "-k", 5)["queries"]
    assert "queen" in [hit["id"] for hit in asked["hits"]]
    raw = next(f for f in (store / "extents").iterdir() if kind_of(f) == ExtentKind.RAW)
    flip_byte(raw, 4_096)
    shown = run("check", store, "--repair", status=1).stdout
    assert f"extent {int(raw.stem)} has lost 21 vectors, of row 0 (id" in shown
    assert "1 violation." in shown
    assert "--repair" in failed("check", store, "--drop-damaged", status=2)
    found = run_json("check", store, "--repair", "--drop-damaged")
    assert found["sound"]
    assert "21 rows were deleted" in found["repair"][0]
    assert run_json("stats", store)["collections"]["words"]["rows"] == 5_000 - 21
    with vecstore.open(store):
        assert "writer" in failed("check", store, "--repair", status=1).lower()


def kind_of(extent: Path) -> int:
    return int(np.fromfile(extent, HEADER_DTYPE, 1)[0]["kind"])


def test_compact(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with vecstore.open(store, maintenance="off") as opened:
        for name in ("a", "b"):
            docs = opened.collection(name, dim=64)
            docs.upsert(range(5_000), np.random.default_rng(0).normal(size=(5_000, 64)))
            docs.delete(range(4_000))
    found = run_json("compact", store, "-c", "a")
    assert found["store"] == f"{store}"
    assert found["collections"] == ["a"]
    assert found["bytes_before"] - found["bytes_after"] > 4_000 * 64 * 4
    assert run_json("stats", store)["collections"]["a"]["dead_rows"] == 0
    shown = run("compact", store).stdout
    assert shown.startswith(f"{store}: ")
    assert "before" in shown
    assert run_json("stats", store)["collections"]["b"]["dead_rows"] == 0
    again = run_json("compact", store)
    assert again["collections"] == ["a", "b"]
    assert "no collection" in failed("compact", store, "-c", "c", status=1)


def test_backup(tmp_path: Path, words: Path) -> None:
    copy = tmp_path / "copy"
    with vecstore.open(words):  # a writer does not mind
        found = run_json("backup", words, copy)
    assert found.pop("disk_bytes") > 5_000 * 50 * 4
    assert found == {"store": f"{words}", "dest": f"{copy}"}
    assert run_json("check", copy)["sound"]
    king = run_json("query", copy, "--id", "king")["queries"][0]["hits"]
    assert king == run_json("query", words, "--id", "king")["queries"][0]["hits"]
    assert "no empty folder" in failed("backup", words, copy, status=2)
    assert f"copied to {tmp_path / 'other'} (" in run("backup", words, tmp_path / "other").stdout


def test_warmup() -> None:
    assert run_json("warmup")["seconds"] >= 0
    assert "ready" in run("warmup").stdout


# --- a process of its own, a terminal ---------------------------------------------------------


def test_process(words: Path) -> None:
    done = spawn("query", words, "--id", "king", "-k", 1, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["queries"][0]["hits"]) == 1
    done = spawn("query", words, "--id", "no such word", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: No row of collection 'words' has the id 'no such word'.\n"
    done = spawn("query", "--bogus")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: No such option")


def test_bars_go_to_the_terminal_and_json_to_stdout(tmp_path: Path, lines: Path) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        command = ("load", tmp_path / "store", lines, "-c", "c", "--json")
        done = subprocess.run(
            [sys.executable, "-m", "vecstore.cli", *(f"{word}" for word in command)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            check=True,
        )
        os.close(theirs)
        seen = terminal.read(100_000)
    assert json.loads(done.stdout)["rows"] == 3
    assert b"read" in seen
    assert b"100%" in seen


# --- a load that is interrupted -----------------------------------------------------------------


def test_an_interrupted_load_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch, posting=6)
    few_are_many(monkeypatch)
    file = tmp_path / "rows.npy"
    np.save(file, base())
    args = ("load", tmp_path / "store", file, "--collection", "docs")
    with monkeypatch.context() as patch:
        patch.setattr("vecstore.build.write_postings", raiser(KeyboardInterrupt))
        assert "Give the same command again to go on" in run(*args, status=130).stderr
    counts = counted(monkeypatch)
    assert "6,000 rows" in run(*args).stdout
    assert (counts["homes"], counts["rows"], counts["postings"]) == (0, 0, 1)
    with vecstore.open(tmp_path / "store", "r") as store:
        assert store.check() == []


def test_a_load_that_fails_early_leaves_no_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.npy"
    np.save(file, base())
    monkeypatch.setattr("vecstore.build.write_rows", raiser(KeyboardInterrupt))
    result = run("load", tmp_path / "store", file, "--collection", "docs", status=130)
    assert "again" not in result.stderr
    with vecstore.open(tmp_path / "store", "r") as store:
        assert store.collections() == []


def raiser(error: type[BaseException]) -> Any:
    """A function that raises."""

    def fail(*args: Any, **named: Any) -> None:
        raise error

    return fail
