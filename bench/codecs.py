"""What each posting codec costs and keeps: ``python -m bench.codecs wordnet glove fashion``.

Speed: nanoseconds per row of the block kernels in cache and from memory, beside the bandwidth of
a plain read in the same run; rows encoded per second.  Quality: recall@10 from codes alone, all
postings looked at, and after exact distances of the best; faiss's codecs on the same centroids.
One thread throughout.  Tables go to standard output, all figures as JSON to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.codec_speed import bandwidth, encode_rate, scan_speed
from bench.data import Data, load
from bench.machine import machine_facts, without_places
from vecstore.codecs import find_codec
from vecstore.codecs.model import train_model
from vecstore.config import BLOCK_ROWS, Metric

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

K = 10
RERANKED = 100
POSTING_ROWS = 100
SAMPLE = 65_536
SPEED_DIMS = (128, 384, 768)
CODECS = (
    *(f"rabitq{bits}" for bits in (1, 2, 3, 4, 5, 6, 8)),
    "int4",
    "int8",
    "float16",
    "float32",
)


class Lists:
    """A set as an index sees it, divided into posting lists by k-means."""

    def __init__(self, data: Data, queries: int) -> None:
        self.metric = data.metric
        self.base: F32 = np.ascontiguousarray(data.base, np.float32)
        self.queries: F32 = np.ascontiguousarray(data.queries[:queries], np.float32)
        self.truth = data.neighbors[:queries, :K]
        if data.metric == "cosine":
            self.base = self.base / np.linalg.norm(self.base, axis=1, keepdims=True)
            self.queries = self.queries / np.linalg.norm(self.queries, axis=1, keepdims=True)
        n, dim = self.base.shape
        means = faiss.Kmeans(dim, max(1, n // POSTING_ROWS), niter=6, seed=1, verbose=False)
        means.cp.max_points_per_centroid = 64
        means.train(self.base)
        self.centroids: F32 = np.ascontiguousarray(means.centroids)
        self.home = faiss.knn(self.base, self.centroids, 1)[1][:, 0]
        order = np.argsort(self.home, kind="stable")
        ends = np.cumsum(np.bincount(self.home, minlength=len(self.centroids)))
        self.members = np.split(order, ends[:-1])

    def recall(self, found: I64) -> float:
        """Share of the true nearest among the answers (n, any number)."""
        pairs = zip(found, self.truth, strict=True)
        return float(np.mean([np.isin(true, own).mean() for own, true in pairs]))

    def exact_best(self, found: I64) -> I64:
        """The K nearest of given candidates by their exact distances."""
        best = np.empty((len(found), K), np.int64)
        for i, rows in enumerate(found):
            apart = self.base[rows] - self.queries[i]
            distances = np.einsum("ij,ij->i", apart, apart)
            best[i] = rows[np.argsort(distances, kind="stable")[:K]]
        return best


def keep_best(rows: I64, values: F32, new_rows: I64, new_values: F32, count: int) -> Any:
    """Merge candidates of each query; return the `count` least with their values."""
    all_rows = np.concatenate([rows, np.broadcast_to(new_rows, new_values.shape)], axis=1)
    all_values = np.concatenate([values, new_values], axis=1)
    if all_values.shape[1] <= count:
        return all_rows, all_values
    part = np.argpartition(all_values, count - 1, axis=1)[:, :count]
    return np.take_along_axis(all_rows, part, 1), np.take_along_axis(all_values, part, 1)


def vecstore_codec(lists: Lists, name: str) -> dict[str, Any]:
    """Recall of one codec of vecstore over all posting lists."""
    rng = np.random.default_rng(0)
    n, dim = lists.base.shape
    codec = find_codec(name, dim)
    picks = rng.choice(n, min(n, SAMPLE), replace=False)
    residuals = lists.base[picks] - lists.centroids[lists.home[picks]]
    centre = lists.centroids.mean(axis=0)
    start = time.perf_counter()
    model = train_model(codec, Metric.parse(lists.metric), 1, centre, residuals)
    trained = time.perf_counter() - start
    q = len(lists.queries)
    rows, values = np.empty((q, 0), np.int64), np.empty((q, 0), np.float32)
    within, pairs, encoded = 0, 0, 0.0
    for members, centroid in zip(lists.members, lists.centroids, strict=True):
        if not len(members):
            continue
        start = time.perf_counter()
        data = model.encode(lists.base[members], centroid)
        encoded += time.perf_counter() - start
        estimates, errors = model.estimate(lists.queries, data, centroid)
        estimates, errors = estimates[:, : len(members)], errors[:, : len(members)]
        truth = true_values(lists, members)
        within += int((np.abs(estimates - truth) <= errors + 1e-6 * np.abs(truth)).sum())
        pairs += truth.size
        rows, values = keep_best(rows, values, members[None], estimates, RERANKED)
    first = np.take_along_axis(rows, np.argsort(values, axis=1, kind="stable")[:, :K], 1)
    return {
        "codec": name,
        "bytes_per_row": codec.row_bytes(dim),
        "code_bytes_per_row": codec.row_bytes(dim) - 4,
        "recall_codes": lists.recall(first),
        "recall_reranked": lists.recall(lists.exact_best(rows)),
        "within_bound": within / pairs,
        "train_seconds": trained,
        "encode_rows_per_second": n / encoded,
    }


def true_values(lists: Lists, members: I64) -> F32:
    """Distances of all queries to some rows, as vecstore defines them (l2 and cosine)."""
    x = lists.base[members]
    squared = (
        np.einsum("ij,ij->i", lists.queries, lists.queries)[:, None]
        + np.einsum("ij,ij->i", x, x)
        - 2 * lists.queries @ x.T
    )
    found: F32 = squared * (np.float32(0.5) if lists.metric == "cosine" else np.float32(1))
    return found


def faiss_indexes(lists: Lists) -> dict[str, Any]:
    """Make faiss's inverted lists on the same centroids, by name; every list is probed."""
    dim = lists.base.shape[1]
    nlist = len(lists.centroids)
    made: dict[str, Any] = {}

    def coarse() -> Any:
        flat = faiss.IndexFlatL2(dim)
        flat.add(lists.centroids)
        return flat

    for bits, label in (
        (faiss.ScalarQuantizer.QT_4bit, "IVFSQ4"),
        (faiss.ScalarQuantizer.QT_8bit, "IVFSQ8"),
        (faiss.ScalarQuantizer.QT_fp16, "IVFSQfp16"),
    ):
        made[label] = faiss.IndexIVFScalarQuantizer(
            coarse(), dim, nlist, bits, faiss.METRIC_L2, True
        )
    for parts in (dim // 4, dim // 2):
        if dim % parts == 0:
            fast = faiss.IndexIVFPQFastScan(coarse(), dim, nlist, parts, 4)
            made[f"IVFPQ{parts}x4fs"] = fast
    for bits in (1, 2, 4, 8):
        try:
            coded = faiss.IndexIVFRaBitQ(coarse(), dim, nlist, faiss.METRIC_L2, True, bits)
        except TypeError:
            if bits > 1:
                continue
            coded = faiss.IndexIVFRaBitQ(coarse(), dim, nlist)
        turn = faiss.RandomRotationMatrix(dim, dim)
        turn.init(5)
        made[f"IVFRaBitQ{bits}"] = (turn, coded)
    return made


def faiss_codec(lists: Lists, label: str, made: Any) -> dict[str, Any]:
    """Recall of one codec of faiss over all its lists."""
    turn, index = made if isinstance(made, tuple) else (None, made)
    base, queries, centroids = lists.base, lists.queries, lists.centroids
    if turn is not None:
        base, queries = turn.apply(base), turn.apply(queries)
        index.quantizer.reset()
        index.quantizer.add(turn.apply(centroids))
    start = time.perf_counter()
    index.train(base[:SAMPLE])
    trained = time.perf_counter() - start
    start = time.perf_counter()
    index.add(base)
    added = time.perf_counter() - start
    index.nprobe = len(centroids)
    _, found = index.search(queries, RERANKED)
    start = time.perf_counter()
    index.search(queries[:20], K)
    searched = time.perf_counter() - start
    return {
        "codec": label,
        "code_bytes_per_row": int(index.code_size),
        "recall_codes": lists.recall(found[:, :K]),
        "recall_reranked": lists.recall(lists.exact_best(found)),
        "train_seconds": trained,
        "encode_rows_per_second": len(base) / added,
        "scan_ns_per_row": searched / 20 / len(base) * 1e9,
    }


def quality(name: str, queries: int) -> list[dict[str, Any]]:
    """Measure all codecs on one set."""
    data = load(name)
    lists = Lists(data, queries)
    dim = data.base.shape[1]
    parts = [max(1, dim // 8), max(1, dim // 4)]
    names = [*CODECS, *(f"{kind}{count}" for kind in ("pq", "opq") for count in parts)]
    found = []
    for codec in names:
        found.append({"dataset": name, "library": "vecstore", **vecstore_codec(lists, codec)})
        print(row_text(found[-1]), flush=True)
    for label, made in faiss_indexes(lists).items():
        found.append({"dataset": name, "library": "faiss", **faiss_codec(lists, label, made)})
        print(row_text(found[-1]), flush=True)
    return found


def row_text(one: dict[str, Any]) -> str:
    """One line of the table of codecs."""
    bound = f"{one['within_bound']:.3f}" if "within_bound" in one else "-"
    return (
        f"| {one['dataset']} | {one['library']} {one['codec']} | {one['code_bytes_per_row']:.0f} | "
        f"{one['recall_codes']:.4f} | {one['recall_reranked']:.4f} | {bound} | "
        f"{one['encode_rows_per_second']:,.0f} |"
    )


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
    """Measure and store."""
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description=__doc__)
    parser.add_argument("datasets", nargs="*", help="prepared sets; none: speeds only")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    command = without_places(f"python -m bench.codecs {shlex.join(sys.argv[1:])}")
    found: dict[str, Any] = {"machine": machine_facts(command), "speeds": speeds()}
    found["quality"] = []
    for name in arguments.datasets:
        found["quality"] += quality(name, arguments.queries)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "codecs.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
