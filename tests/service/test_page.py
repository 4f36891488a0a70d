"""The page in a headless Chromium, by keyboard alone; left out where there is no browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.cli_checks import run_json
from tests.conftest import SmallSet
from tests.service.checks import running

BROWSER = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield made
        made.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, small_sets: dict[str, SmallSet]) -> Path:
    path = tmp_path_factory.mktemp("page") / "store"
    words = small_sets["glove50"]
    with vecstore.open(path) as store:
        docs = store.collection("words", dim=words.dim, metric="cosine")
        texts = [f"{word}" for word in words.about["words"]]
        docs.load(words.base, texts, [{"n": i} for i in range(len(texts))], texts)
        notes = store.collection("notes", dim=2, tenants=True)
        notes.tenant("ann").upsert([1, 2], np.eye(2), [{"by": "ann"}, None])
        notes.tenant("bob").upsert([1], np.eye(2)[:1], [{"by": "bob"}])
    return path


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab that fails the test when it asks others for anything, or its script fails."""
    tab = browser.new_page(viewport={"width": 1100, "height": 1400})
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None
    )
    tab.on(
        "request",
        lambda one: (
            None if re.match(r"http://127\.0\.0\.1|data:", one.url) else wrong.append(one.url)
        ),
    )
    yield tab
    tab.close()
    assert wrong == []


def test_a_look_around_by_keyboard(page: Any, path: Path) -> None:
    with running(path) as service:
        page.goto(service.url)
        page.wait_for_function(
            "() => document.querySelectorAll('#collections tbody tr').length == 2"
        )
        assert "2 collections, 5,003 rows" in page.inner_text("#summary")
        assert not page.is_visible("#key-form")
        # Reach the link of "words" by tabulator, and follow it.
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "words":
                break
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('one-title').textContent == 'words'")
        page.wait_for_function(
            "() => document.getElementById('map-text').textContent.includes('centroids')"
        )
        assert page.evaluate("document.querySelectorAll('#calibration tbody tr').length") > 3
        painted = page.evaluate(
            "(() => { const c = document.getElementById('map'); return c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data.some((value) => value > 0); })()"
        )
        assert painted
        # Ask by id.
        word = "king"
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "question":
                break
        page.keyboard.type(word)
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('#hits li').length == 10")
        found = page.eval_on_selector_all("#hits li b", "all => all.map((one) => one.textContent)")
        with service.connect() as store:
            docs = store.collection("words")
            expected = [hit.id for hit in docs.query(docs.vectors(word), k=11)]
        assert found == [one for one in expected if one != word]
        # Ask by a vector, with a filter; then wrongly.
        with service.connect() as store:
            vector = store.collection("words").vectors("queen").tolist()
        page.fill("#question", f"{vector}")
        page.fill("#where", '{"n": {"$lt": 100}}')
        page.fill("#k", "3")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('#hits li').length == 3")
        for question, words in (
            ("[1, 2]", "2 dimensions"),
            ("[1,", "no JSON"),
            ("qqq zzz", "no id"),
        ):
            page.fill("#question", question)
            page.focus("#question")
            page.keyboard.press("Enter")
            page.wait_for_function(
                f"() => document.getElementById('problem').textContent.includes({words!r})"
            )
        # What happened is drawn.
        page.reload()
        page.wait_for_function(
            "() => document.getElementById('latency-text').textContent.startsWith('Queries:')"
        )
        assert page.evaluate("document.querySelectorAll('#latency path').length") == 2
        if out := os.environ.get("VECSTORE_SCREENSHOTS"):
            page.fill("#question", "king")
            page.focus("#question")
            page.keyboard.press("Enter")
            page.wait_for_function("() => document.querySelectorAll('#hits li').length == 10")
            page.screenshot(path=f"{out}/page.png", full_page=True)


def test_large_ids_keep_their_digits(page: Any, tmp_path: Path) -> None:
    with running(tmp_path / "store") as service:
        with service.connect() as store:
            large = [2**53 + 1, 2**53 + 3, 2**63 - 1]
            facts = [None, {"parent": 2**53 + 1, "far": 1e300, "near": -5}, None]
            docs = store.collection("large", dim=2)
            docs.upsert(large, [[1, 0], [1, 0.1], [1e12, 1e12]], facts)
        page.goto(f"{service.url}/#large")
        page.wait_for_function("() => document.getElementById('one-title').textContent == 'large'")
        page.fill("#question", f"{2**53 + 1}")
        page.focus("#question")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('#hits li').length == 2")
        found = page.eval_on_selector_all("#hits li b", "all => all.map((one) => one.textContent)")
        assert found == [f"{2**53 + 3}", f"{2**63 - 1}"]
        facts = page.inner_text("#hits li code")
        assert json.loads(facts) == {"parent": 2**53 + 1, "far": 1e300, "near": -5}
        assert f"{2**53 + 1}" in facts


def test_a_tenant_with_its_key(page: Any, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = run_json("keys", "add", path, "--keys", file, "--role", "read", "--tenant", "ann")
    with running(path, keys=file) as service:
        page.goto(service.url)
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", made["key"])
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => document.getElementById('tenant-count').textContent == '2 rows'"
        )
        assert page.inner_text("#one-title") == "notes"
        page.wait_for_function("() => document.getElementById('map-text').textContent")
        page.wait_for_selector("#problem", state="hidden")
        assert page.eval_on_selector_all("#collections tbody tr", "all => all.length") == 1
        page.fill("#question", "1")
        page.focus("#question")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelectorAll('#hits li').length == 1")
        assert "bob" not in page.inner_text("#hits")


def test_the_page_of_the_api(page: Any, path: Path) -> None:
    with running(path) as service:
        page.goto(f"{service.url}/docs#query")
        page.wait_for_selector("details#query[open]")
        assert '"vector"' in page.inner_text("details#query")
        if out := os.environ.get("VECSTORE_SCREENSHOTS"):
            page.screenshot(path=f"{out}/docs.png", full_page=True)
