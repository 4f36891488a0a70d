"""Damaging a file at random, and what becomes of a store with such a file."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import vecstore
from tests.crash import faults, work

KINDS = ["bit", "byte", "zeros", "noise", "copy", "cut"]
QUERY = np.array([0.5, -0.25, 1.0, 0.0], np.float32)


def damage(path: Path, rng: random.Random) -> str:
    """Flip, overwrite or cut a random region of a file; tell what was done, "" for nothing."""
    raw = bytearray(path.read_bytes())
    before = bytes(raw)
    kind, at = rng.choice(KINDS), rng.randrange(len(raw))
    length = min(rng.choice([2, 8, 64, 512, 4096]), len(raw) - at)
    if kind == "bit":
        raw[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        raw[at] ^= rng.randrange(1, 256)
    elif kind == "zeros":
        raw[at : at + length] = bytes(length)
    elif kind == "noise":
        raw[at : at + length] = rng.randbytes(length)
    elif kind == "copy":
        source = rng.randrange(len(raw) - length + 1)
        raw[at : at + length] = raw[source : source + length]
    else:
        del raw[at:]
    path.write_bytes(raw)
    return "" if bytes(raw) == before else f"{kind} at {at} of {len(before)}, {length} bytes"


def answers(store: vecstore.Store) -> dict[str, Callable[[], Any]]:
    """Calls whose answers must not change."""
    found = work.reads(store)
    if "docs" in store.collections():
        docs = store.collection("docs")
        found["docs: near"] = lambda: [(h.id, h.distance) for h in docs.query(QUERY, k=30)]
        found["docs: few"] = lambda: [h.id for h in docs.query(QUERY, k=3, recall=0.5)]
        found["docs: many"] = lambda: docs.search([QUERY] * 40, k=20).ids.tolist()
        found["docs: count"] = lambda: docs.count(where={"n": {"$gt": 2}})
    return found


def sound_answers(path: str) -> dict[str, Any]:
    """What a store answers while it is sound."""
    with vecstore.open(path, mode="r") as store:
        assert store.check() == []
        return {name: call() for name, call in answers(store).items()}


@dataclass
class Verdict:
    """How a damaged store behaved.

    Attributes
    ----------
    refused : int
        Calls that raised a typed error.
    noticed : bool
        Whether `check` saw the damage.
    wrong : list of str
        Answers that were wrong, and errors that are not typed.
    """

    refused: int = 0
    noticed: bool = False
    wrong: list[str] = field(default_factory=list)

    def attempt(self, name: str, call: Callable[[], Any], expected: Any = None) -> Any:
        """Call; the answer must be the expected one, if there is one, or a typed error."""
        try:
            found = call()
        except vecstore.VecstoreError:
            self.refused += 1
            return None
        except AssertionError as error:
            self.wrong.append(f"{name}: {error}")
            return None
        except BaseException:  # noqa: BLE001 - that is what is looked for
            self.wrong.append(f"{name}: {traceback.format_exc()}")
            return None
        if expected is not None and found != expected:
            self.wrong.append(f"{name}: a wrong answer")
        return found


def use(path: str, expected: dict[str, Any], fault: str = "") -> Verdict:
    """Read a store that may be damaged, check it, write to it, read again."""
    if fault:
        getattr(faults, fault)()
    verdict = Verdict()
    store = verdict.attempt("open to read", lambda: vecstore.open(path, mode="r"))
    if store is not None:
        _read(verdict, store, expected, "")
        problems = verdict.attempt("check", store.check)
        verdict.noticed = problems is None or bool(problems)
        verdict.attempt("stats", store.stats)
        verdict.attempt("close", store.close)
    store = verdict.attempt("open to write", lambda: vecstore.open(path))
    if store is None:
        return verdict
    exact = {name: value for name, value in expected.items() if not name.startswith("docs: ")}
    docs = verdict.attempt("collection", lambda: store.collection("docs"))
    if docs is not None:
        vector = np.full((1, work.DIM), 50, np.float32)
        if verdict.attempt("upsert", lambda: docs.upsert([7_000], vector) or True):
            verdict.attempt("the row", lambda: docs.vectors([7_000]).tolist(), vector.tolist())
        if verdict.attempt("delete", lambda: docs.delete([7_000]) + 1) is None:
            exact = {name: value for name, value in exact.items() if not name.startswith("docs")}
        verdict.attempt("compact", docs.compact)
    verdict.attempt("compact shared", lambda: store.collection("shared").compact())
    _read(verdict, store, exact, ", written to")
    verdict.attempt("close", store.close)
    return verdict


def _read(verdict: Verdict, store: vecstore.Store, expected: dict[str, Any], when: str) -> None:
    found = verdict.attempt("calls", lambda: answers(store)) or {}
    for name, value in expected.items():
        if name in found:
            verdict.attempt(name + when, found[name], value)
        elif found:
            verdict.wrong.append(f"{name}{when}: a collection has gone")


def summary(verdicts: list[Verdict | None]) -> Counter[str]:
    """Count outcomes; None is a process that did not end by itself."""
    counts: Counter[str] = Counter()
    for verdict in verdicts:
        if verdict is None:
            counts["crashed"] += 1
        elif any("wrong answer" not in problem for problem in verdict.wrong):
            counts["untyped"] += 1
        elif verdict.wrong:
            counts["wrong"] += 1
        elif verdict.refused:
            counts["refused"] += 1
        elif verdict.noticed:
            counts["noticed_by_check"] += 1
        else:
            counts["without_effect"] += 1
    return counts
