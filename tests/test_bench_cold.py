"""Cold measurements: what is counted, emptied and chosen; the disk; a tiny run from end to end."""

from __future__ import annotations

import mmap
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import report
from bench.channel import BenchError
from bench.cold import ColdSettings, affordable, around, run_cold
from bench.cold_report import device_table
from bench.device import DEPTHS, SIZES_BYTES, measure_device, wave_us
from bench.limits import (
    Group,
    Reads,
    control_group,
    parse_io_stat,
    parse_throttle,
    read_ahead,
    read_ahead_kb,
)
from bench.machine import machine_facts
from bench.results import load_run
from bench.summary import summarise

DATASET = "synthetic-2000x16"
LIMIT_BYTES = 400 * 2**20


def _groups_work() -> bool:
    try:
        with control_group(f"vecstore-test-{os.getpid()}", LIMIT_BYTES, Path(__file__)):
            return True
    except BenchError:
        return False


needs_groups = pytest.mark.skipif(not _groups_work(), reason="control groups need root and Linux")


def test_reads_are_summed_over_devices() -> None:
    stat = (
        "254:0 rbytes=8192 wbytes=1 rios=2 wios=9 dbytes=0 dios=0\n8:0 rbytes=4096 rios=1\n7:0 \n"
    )
    assert parse_io_stat(stat) == Reads(3, 12288)
    assert parse_throttle("254:0 Read 200\n254:0 Write 7\n8:0 Read 5\nTotal 212\n") == 205


@needs_groups
def test_a_group_counts_reads_and_gives_its_cache_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.bin"
    path.write_bytes(os.urandom(2**22))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    child_read, parent_write = os.pipe()
    parent_read, child_write = os.pipe()
    group = Group(f"vecstore-test-{os.getpid()}", LIMIT_BYTES, tmp_path)
    child = os.fork()
    if child == 0:
        for folder in group.folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))
        mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        while os.read(child_read, 1) == b"t":
            touched = sum(mapped[at] for at in range(0, len(mapped), 2**16))
            os.write(child_write, b"y" if touched >= 0 else b"n")
        os._exit(0)
    try:

        def touch() -> Reads:
            before = group.reads()
            os.write(parent_write, b"t")
            assert os.read(parent_read, 1) == b"y"
            after = group.reads()
            return Reads(after.count - before.count, after.bytes - before.bytes)

        first, again = touch(), touch()
        group.empty_cache()
        emptied = touch()
    finally:
        os.write(parent_write, b"e")
        os.waitpid(child, 0)
        group.remove()
        for one in (descriptor, child_read, child_write, parent_read, parent_write):
            os.close(one)
    assert first.count >= 64
    assert first.bytes >= 64 * 4096
    assert again.count == 0
    assert emptied.count >= 60  # the kernel may keep a page that was touched just now


def test_a_group_that_cannot_be_made_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bench.limits.Group._make", refused)
    with (
        pytest.raises(BenchError, match=r"Permission denied.*need root"),
        control_group("nope", 1, Path(__file__)),
    ):
        pass


def test_waves_of_reads_and_what_lies_between(tmp_path: Path) -> None:
    try:
        found = measure_device(tmp_path, 2**23, 0.001)
    except (BenchError, OSError) as error:
        pytest.skip(f"no asynchronous direct reads here: {error}")
    assert list(tmp_path.iterdir()) == []
    for name in ("mean_us", "p50_us", "p99_us"):
        assert np.array(found[name]).shape == (len(SIZES_BYTES), len(DEPTHS))
        assert np.array(found[name]).min() > 0
    assert (np.array(found["p50_us"]) <= np.array(found["p99_us"])).all()
    assert f"| 16 KB | {found['p50_us'][1][0]:,.0f} / " in device_table(found)


def test_a_wave_lies_between_those_measured() -> None:
    device = {
        "sizes_bytes": [4096, 16384],
        "depths": [1, 4, 16],
        "p50_us": [[100, 100, 400], [200, 200, 800]],
    }
    assert wave_us(device, 4, 4 * 4096) == pytest.approx(100)
    assert wave_us(device, 16, 16 * 16384) == pytest.approx(800)
    assert wave_us(device, 8, 8 * 4096) == pytest.approx(200)  # log-linear in the depth
    assert wave_us(device, 1, 8192) == pytest.approx(2**0.5 * 100)  # and in the size
    assert wave_us(device, 32, 32 * 4096) == pytest.approx(800)  # beyond: in proportion
    assert wave_us(device, 1, 32768) == pytest.approx(400)
    assert wave_us(device, 0.5, 2048) == pytest.approx(50)
    assert wave_us(device, 0, 0) == 0


def test_points_nearest_to_the_recall_are_measured() -> None:
    recalls = [0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.93]
    seconds = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0]  # the last is beaten
    assert around(0.95, recalls, seconds) == [1, 2, 3, 4]
    assert around(0.99, recalls, seconds) == [4, 5]
    assert around(0.80, recalls, seconds) == [0, 1]


def test_slow_adapters_are_asked_fewer_queries() -> None:
    assert affordable(200, 800, 1_000, 60) == (200, 800)
    assert affordable(200, 800, 120_000, 60) == (100, 400)
    assert affordable(200, 800, 1e9, 60) == (20, 80)
    assert affordable(10, 20, 1e9, 60) == (10, 20)


def test_the_read_ahead_is_set_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "read_ahead_kb"
    file.write_text("8192\n")
    monkeypatch.setattr("bench.limits._read_ahead_file", lambda _: file)
    with pytest.raises(RuntimeError, match="within: 128"), read_ahead(tmp_path, 128):
        raise RuntimeError(f"within: {read_ahead_kb(tmp_path)}")
    assert read_ahead_kb(tmp_path) == 8192
    with read_ahead(tmp_path, None):
        assert read_ahead_kb(tmp_path) == 8192


@needs_groups
def test_a_tiny_cold_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECSTORE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("bench.device.SECONDS_EACH", 0.001)
    folder = tmp_path / "results"

    def settings(*adapters: str, go_on: bool = False) -> ColdSettings:
        return ColdSettings(
            (DATASET,),
            adapters,
            recalls=(0.9, 0.99),
            queries=30,
            filling=20,
            repeats=2,
            limit_bytes=LIMIT_BYTES,
            go_on=go_on,
        )

    said: list[str] = []
    work, facts = tmp_path / "work", machine_facts("test")
    run_cold(settings("faiss-ivf-mmap"), folder, work, facts, said.append, 2**23)
    device = load_run(folder).settings["device"]
    both = settings("faiss-ivf-mmap", "vecstore", go_on=True)
    run_cold(both, folder, work, facts, said.append, 2**23)
    assert sum("building faiss-ivf-mmap" in line for line in said) == 1
    stored = load_run(folder)
    assert stored.settings["device"] == device
    assert [pair.adapter for pair in stored.pairs] == ["faiss-ivf-mmap", "vecstore"]
    for pair in stored.pairs:
        assert pair.ok, pair.record
        count = len(pair.record["points"])
        assert pair.arrays["latency_ns"].shape == (2, count, 30)
        assert pair.arrays["reads"].shape == (2, count)
        assert pair.arrays["latency_ns"].min() > 0
        assert max(point.recall for point in summarise(pair, stored).points) > 0.85
    report.write_report([stored], folder)
    text = (folder / "report.md").read_text("utf-8")
    assert "one wave µs" in text
    assert "| vecstore | " in text
    other = replace(both, queries=40)
    with pytest.raises(BenchError, match="was measured with queries 30, now it is 40"):
        run_cold(other, folder, work, facts, print)


def test_queries_that_only_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECSTORE_DATA", str(tmp_path))
    monkeypatch.setattr("bench.cold.measure_device", lambda *_: {})
    asked = ColdSettings((DATASET,), ("faiss-flat",), filling=1000)
    with pytest.raises(BenchError, match="of which 1000 fill the cache"):
        run_cold(asked, tmp_path / "out", tmp_path / "work", machine_facts("test"), print)
