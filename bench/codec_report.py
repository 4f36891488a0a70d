"""The report of ``python -m bench.codecs``: tables, all derived from ``codecs.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

#: Text for people, kept beside the results, that opens the report.
READING = "reading.md"

_METHOD = """\
Rows are divided into lists of about 100 by k-means; every codec, faiss's too, encodes the residuals
from the same centroids. All lists are looked at, so that only codes decide what is found. *Code
bytes* are what a list holds for a row: padding to whole words and the factors of estimate and bound
included, but not its number (4 bytes here, 8 in faiss). *Codes alone* is recall@10 of the ten least
estimates; *reranked* that of the 100 least, in the order of their exact distances. *Within bound*
is the share of all pairs of a query and a row whose estimate is off by no more than the bound that
is stored with the code; 1.9 standard deviations are 94 %, and faiss has no such bound. RaBitQ of
faiss gets rows rotated by a dense random matrix. Tables are in the order of bytes. Ties at the
tenth distance count.
"""


def row_text(record: dict[str, Any]) -> str:
    """One line of the table of codecs."""
    bound = f"{record['within_bound']:.3f}" if "within_bound" in record else "–"
    return (
        f"| {record['library']} {record['codec']} | {record['code_bytes_per_row']:.0f} "
        f"| {record['recall_codes']:.3f} | {record['recall_reranked']:.3f} | {bound} |"
    )


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    first = "| " + " | ".join(head) + " |"
    return "\n".join([first, "| --- " + "| ---: " * (len(head) - 1) + "|", *rows])


def _dataset(name: str, records: Sequence[dict[str, Any]]) -> str:
    facts = records[0]
    asked = sorted({record["queries"] for record in records})
    error = 0.5 / (10 * asked[0]) ** 0.5
    title = f"## {name}: {facts['rows']:,} × {facts['dim']}, {facts['metric']}"
    said = (
        f"{' or '.join(map(str, asked))} held-out queries, {facts['lists']:,} lists; a recall's "
        f"standard error is at most {error:.3f} if hits are independent."
    )
    ordered = sorted(records, key=lambda one: (one["code_bytes_per_row"], one["library"]))
    head = ("codec", "code bytes", "codes alone", "reranked", "within bound")
    return f"{title}\n\n{said}\n\n{_table(head, map(row_text, ordered))}\n"


def _speeds(speeds: dict[str, Any]) -> str:
    rows = [
        f"| {one['dim']} | {one['codec']} | {one['scanned_bytes_per_row']:.0f} "
        f"| {one['cached_ns_per_row']:.2f} | {one['streamed_ns_per_row']:.2f} "
        f"| {one['bandwidth_ns_per_row']:.2f} | {one['encode_rows_per_second'] / 1e6:.2f} |"
        for one in speeds["rows"]
    ]
    head = (
        *("dimensions", "codec", "bytes scanned", "ns a row in cache", "from memory"),
        *("plain read", "encoded, million rows/s"),
    )
    rate = speeds["bandwidth_bytes_per_second"] / 1e9
    return (
        f"## Speed\n\nOne thread; least of five passes. A plain read of memory runs at {rate:.1f} "
        "GB/s in the same run. Codes of several bits are scanned by their sign bits; their further "
        f"bits are read for the rows that those let through.\n\n{_table(head, rows)}\n"
    )


def _runs(runs: Sequence[dict[str, Any]]) -> str:
    rows = [
        f"| {place} | {run['date'][:16].replace('T', ' ')} | {run['cpu']}, {run['cores']} cores "
        f"| {run['git_commit'][:10]}{' and changes' if run['git_dirty'] else ''} "
        f"| `{run['command']}` |"
        for place, run in enumerate(runs)
    ]
    head = ("run", "begun, UTC", "machine", "commit", "command")
    return f"## Runs\n\n{_table(head, rows)}\n"


def write_report(folder: Path) -> Path:
    """Write ``report.md`` from the results in a folder; return its path."""
    found = json.loads((folder / "codecs.json").read_text("utf-8"))
    parts = ["# Posting codecs\n"]
    reading = folder / READING
    if reading.exists():
        parts.append(reading.read_text("utf-8"))
    parts.append("## How to read the tables\n\n" + _METHOD)
    by_set: dict[str, list[dict[str, Any]]] = {}
    for record in found["quality"]:
        by_set.setdefault(record["dataset"], []).append(record)
    parts += [_dataset(name, records) for name, records in by_set.items()]
    if found["speeds"]:
        parts.append(_speeds(found["speeds"]))
    parts.append(_runs(found["runs"]))
    path = folder / "report.md"
    path.write_text("\n".join(parts), "utf-8")
    return path
