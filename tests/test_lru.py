"""A cache bounded by bytes: what was used last stays, what goes is told of."""

from __future__ import annotations

from vecstore.lru import LruBytes


def test_what_was_used_last_stays() -> None:
    dropped: list[str] = []
    kept: LruBytes[int, str] = LruBytes(20, dropped.append)
    assert [kept.put(key, f"value {key}", 10) for key in (1, 2)] == ["value 1", "value 2"]
    assert kept.get(2) == kept.get(2) == "value 2"
    assert kept.get(1) == "value 1"
    assert kept.put(3, "value 3", 10) == "value 3"
    assert dropped == ["value 2"]
    assert kept.get(2) is None
    assert kept.put(1, "another", 10) == kept.get(1) == "value 1"
    assert kept.nbytes == 20
    kept.put(4, "value 4", 100)
    assert (kept.get(4), kept.get(1), kept.get(3)) == ("value 4", None, None)


def test_nothing_stays_after_clear() -> None:
    dropped: list[str] = []
    kept: LruBytes[int, str] = LruBytes(20, dropped.append)
    kept.put(1, "value", 10)
    assert kept.get(1) == "value"
    kept.clear()
    assert kept.get(1) is None
    assert dropped == ["value"]
    assert kept.nbytes == 0
