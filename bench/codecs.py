"""What each posting codec costs and keeps: ``python -m bench.codecs wordnet glove fashion``.

Speed: nanoseconds per row of the block kernels in cache and from memory, beside the bandwidth of
a plain read in the same run; rows encoded per second.  Quality: recall@10 from codes alone, all
postings looked at, and after exact distances of the best; faiss's codecs on the same centroids.
One thread throughout.  All figures go to ``codecs.json`` in ``--out`` and from there into
``report.md``; what an earlier run left there is kept, or replaced where it is measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss

from bench.codec_quality import CODECS, codec_names, quality
from bench.codec_report import row_text, write_report
from bench.codec_speed import bandwidth, encode_rate, scan_speed
from bench.data import load
from bench.machine import machine_facts, without_places
from vecstore.codecs import find_codec
from vecstore.config import BLOCK_ROWS

FILE = "codecs.json"
SPEED_DIMS = (128, 384, 768)


@dataclass
class Figures:
    """All that was measured into one folder.

    Attributes
    ----------
    folder : Path
    runs : list of dict
        Machine facts of each run; speeds and records name theirs by its place.
    speeds : dict or None
    quality : dict
        Records by (dataset, library, codec).
    """

    folder: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    speeds: dict[str, Any] | None = None
    quality: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Figures:
        """Read a folder; one without results gives none."""
        path = folder / FILE
        if not path.exists():
            return cls(folder)
        found = json.loads(path.read_text("utf-8"))
        figures = cls(folder, found["runs"], found["speeds"])
        for record in found["quality"]:
            figures.put(record, record["run"])
        return figures

    def put(self, record: dict[str, Any], run: int) -> None:
        """Add or replace one codec's figures on one set."""
        key = (record["dataset"], record["library"], record["codec"])
        self.quality[key] = {**record, "run": run}

    def save(self) -> None:
        """Write everything; called after each codec, so that a broken run keeps its start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {"runs": self.runs, "speeds": self.speeds, "quality": [*self.quality.values()]}
        part = self.folder / f"{FILE}.part"
        part.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        part.replace(self.folder / FILE)


def speeds() -> dict[str, Any]:
    """Scan and encoding speeds by codec and dimension."""
    rate = bandwidth()
    print(f"plain read: {rate / 1e9:.1f} GB/s from memory")
    rows = []
    for dim in SPEED_DIMS:
        for name in (*CODECS, f"pq{dim // 8}"):
            codec = find_codec(name, dim)
            scanned = codec.block_bytes(dim) / BLOCK_ROWS
            cached, streamed = scan_speed(codec, dim)
            one = {
                "dim": dim,
                "codec": name,
                "scanned_bytes_per_row": scanned,
                "cached_ns_per_row": cached,
                "streamed_ns_per_row": streamed,
                "bandwidth_ns_per_row": scanned / rate * 1e9,
                "encode_rows_per_second": encode_rate(codec, dim),
            }
            rows.append(one)
            print(
                f"| {dim} | {name} | {scanned:.0f} | {cached:.2f} | {streamed:.2f} | "
                f"{one['bandwidth_ns_per_row']:.2f} | {one['encode_rows_per_second']:,.0f} |",
                flush=True,
            )
    return {"bandwidth_bytes_per_second": rate, "rows": rows}


def main() -> None:
    """Measure, store, and write the report anew."""
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description=__doc__)
    parser.add_argument("datasets", nargs="*", help="prepared sets; none: speeds only")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--codec", help="of vecstore, separated by commas; without: all, and faiss")
    parser.add_argument("--no-opq", action="store_true", help="leave out what takes long to train")
    parser.add_argument("--no-speed", action="store_true", help="keep the speeds that are there")
    parser.add_argument("--out", type=Path, required=True, help="results folder")
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    figures = Figures.read(given.out)
    command = without_places(f"python -m bench.codecs {shlex.join(sys.argv[1:])}")
    run = len(figures.runs)
    if given.datasets or not given.no_speed:
        figures.runs.append(machine_facts(command))
    if not given.no_speed:
        figures.speeds = {"run": run, **speeds()}
        figures.save()
    for name in given.datasets:
        data = load(name)
        codecs = codec_names(data.base.shape[1], not given.no_opq)
        chosen = given.codec.split(",") if given.codec else codecs
        for record in quality(data, given.queries, chosen, not given.codec):
            figures.put({**record, "load": os.getloadavg()[0]}, run)
            figures.save()
            print(row_text(record), flush=True)
    figures.save()
    print(f"Report: {write_report(given.out)}")


if __name__ == "__main__":
    main()
