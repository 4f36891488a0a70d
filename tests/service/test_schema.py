"""schemathesis over the OpenAPI document: what it promises is held, whatever is sent.

All its checks run: no server errors, statuses and bodies as documented, wrong data refused, other
methods refused, keys needed. A call that fits the schema may still be wrong for the collection at
hand (its dimension, its ids), so 400 or 403 is an answer to such calls as well.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.checks import Running, running

CONFIG = """
[generation]
max-examples = {examples}
[checks.positive_data_acceptance]
expected-statuses = [200, 400, 403, 404, 409, 413]
{more}
"""
NAMED = """
[parameters]
"path.collection" = "{collection}"
"""


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "backups").mkdir()
    with running(tmp_path / "store", backups=tmp_path / "backups") as service:
        with service.connect() as store:
            docs = store.collection("docs", dim=1)
            docs.upsert([0, 1], [[0], [1]], [{"a": 1}, None])
            notes = store.collection("notes", dim=1, tenants=True)
            notes.tenant("a").upsert([0, 1], [[0], [1]], [{"a": 1}, None])
        yield service
        with service.connect() as store:
            assert store.check() == []


def fuzz(service: Running, folder: Path, examples: int, more: str, *options: str) -> int:
    """Run schemathesis; returns how many calls it made."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(examples=examples, more=more))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    # Import takes lines, which it has no way to write.
    command += [
        f"{service.url}/openapi.json",
        "--checks",
        "all",
        "--exclude-operation-id",
        "import",
    ]
    command += ["--no-color", "--seed", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    found = re.search(r"(\d[\d,]*) generated, (\d[\d,]*) passed", done.stdout)
    assert found is not None, done.stdout[-2_000:]
    assert found[1] == found[2]
    return int(found[1].replace(",", ""))


def test_what_the_document_promises(fuzzed: Running, tmp_path: Path) -> None:
    named = NAMED.format(collection="docs")
    options = ("--phases", "coverage", "--exclude-operation-id", "drop")
    assert fuzz(fuzzed, tmp_path, 1, named, *options) >= 500


@pytest.mark.soak
@pytest.mark.parametrize("collection", ["docs", "notes", None])
def test_many_cases(fuzzed: Running, tmp_path: Path, collection: str | None) -> None:
    more = "" if collection is None else NAMED.format(collection=collection)
    dropped = () if collection is None else ("--exclude-operation-id", "drop")
    phases = ("--phases", "examples,coverage,fuzzing")
    assert fuzz(fuzzed, tmp_path, 120, more, *phases, *dropped) >= 2_000
