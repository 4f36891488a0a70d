"""What posting codecs keep: recall from codes alone and after reranking, beside faiss's codecs.

All postings are looked at, so that nothing but the codes decides; every codec sees the same lists.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.data import Data
from vecstore.codecs import find_codec, train_model
from vecstore.config import Metric

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

K = 10
RERANKED = 100
POSTING_ROWS = 100
SAMPLE = 65_536
GRIDS = (*(f"rabitq{bits}" for bits in (1, 2, 3, 4, 5, 6, 8)), "int4", "int8")
CODECS = (*GRIDS, "float16", "float32")


def codec_names(dim: int, opq: bool) -> list[str]:
    """Codecs to measure; product quantisation takes a byte for 8 and for 4 dimensions."""
    kinds = ("pq", "opq") if opq else ("pq",)
    parts = (max(1, dim // 8), max(1, dim // 4))
    return [*CODECS, *(f"{kind}{count}" for kind in kinds for count in parts)]


class Lists:
    """A set as an index sees it, divided into posting lists by k-means.

    Parameters
    ----------
    data : Data
        Of metric l2 or cosine.
    queries : int
        Held-out queries to use.
    """

    def __init__(self, data: Data, queries: int) -> None:
        if data.metric == "ip":
            raise ValueError(f"{data.name} is of metric ip; faiss's lists are made for l2 here.")
        self.data = data
        self.metric = data.metric
        self.asked: F32 = np.ascontiguousarray(data.queries[:queries], np.float32)
        true = metrics.true_distances(data.base, self.asked, data.neighbors[:queries], self.metric)
        self.kth = true[:, K - 1]
        self.base: F32 = np.array(data.base, np.float32)
        self.queries = self.asked
        if data.metric == "cosine":
            self.base /= np.linalg.norm(self.base, axis=1, keepdims=True)
            self.queries = self.asked / np.linalg.norm(self.asked, axis=1, keepdims=True)
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
        """Share of the true K nearest among the first K answers (n, any number)."""
        own = found[:, :K]
        mask = metrics.found_mask(self.data.base, self.asked, own, self.kth, self.metric)
        return metrics.recall(mask, K)

    def reranked(self, found: I64) -> float:
        """Recall of the candidates (n, any number) in the order of their exact distances."""
        distances = metrics.true_distances(self.data.base, self.asked, found, self.metric)
        order = np.argsort(distances, axis=1, kind="stable")
        return self.recall(np.take_along_axis(found, order, axis=1))

    def distances(self, members: I64) -> F32:
        """Distances of all queries to some rows, as vecstore defines them."""
        x = self.base[members]
        squared = (
            np.einsum("ij,ij->i", self.queries, self.queries)[:, None]
            + np.einsum("ij,ij->i", x, x)
            - 2 * self.queries @ x.T
        )
        return np.asarray(squared * np.float32(0.5 if self.metric == "cosine" else 1.0))


class Best:
    """The least estimates so far, of each query."""

    def __init__(self, queries: int, count: int) -> None:
        self._count = count
        self._rows = np.empty((queries, 0), np.int64)
        self._values = np.empty((queries, 0), np.float32)

    def add(self, rows: I64, values: F32) -> None:
        """Take in the estimates (queries, n) of n rows."""
        all_rows = np.concatenate([self._rows, np.broadcast_to(rows, values.shape)], axis=1)
        all_values = np.concatenate([self._values, values], axis=1)
        if all_values.shape[1] > self._count:
            part = np.argpartition(all_values, self._count - 1, axis=1)[:, : self._count]
            all_rows = np.take_along_axis(all_rows, part, axis=1)
            all_values = np.take_along_axis(all_values, part, axis=1)
        self._rows, self._values = all_rows, all_values

    def rows(self) -> I64:
        """Rows by their estimates, the least first."""
        order = np.argsort(self._values, axis=1, kind="stable")
        return np.take_along_axis(self._rows, order, axis=1)


def vecstore_codec(lists: Lists, name: str) -> dict[str, Any]:
    """Recall of one codec of vecstore over all posting lists.

    Returns
    -------
    dict
        Seconds are CPU seconds of the one thread.
    """
    rng = np.random.default_rng(0)
    n, dim = lists.base.shape
    codec = find_codec(name, dim)
    picks = rng.choice(n, min(n, SAMPLE), replace=False)
    residuals = lists.base[picks] - lists.centroids[lists.home[picks]]
    centre = lists.centroids.mean(axis=0)
    start = time.process_time()
    model = train_model(codec, Metric.parse(lists.metric), 1, centre, residuals)
    trained = time.process_time() - start
    best = Best(len(lists.queries), RERANKED)
    within, pairs, encoded = 0, 0, 0.0
    for members, centroid in zip(lists.members, lists.centroids, strict=True):
        if not len(members):
            continue
        rows = lists.base[members]
        start = time.process_time()
        run = model.encode(rows, centroid)
        encoded += time.process_time() - start
        estimates, errors = (
            part[:, : len(members)] for part in model.estimate(lists.queries, run, centroid)
        )
        truth = lists.distances(members)
        within += int((np.abs(estimates - truth) <= errors + 1e-6 * np.abs(truth)).sum())
        pairs += truth.size
        best.add(members, estimates)
    found = best.rows()
    return {
        "library": "vecstore",
        "codec": name,
        "code_bytes_per_row": codec.row_bytes(dim) - 4,
        "posting_bytes_per_row": codec.row_bytes(dim),
        "recall_codes": lists.recall(found),
        "recall_reranked": lists.reranked(found),
        "within_bound": within / pairs,
        "train_seconds": trained,
        "encode_seconds": encoded,
    }


def faiss_indexes(dim: int, nlist: int) -> dict[str, Any]:
    """Make faiss's inverted lists, by name."""

    def coarse() -> Any:
        return faiss.IndexFlatL2(dim)

    made: dict[str, Any] = {}
    for bits in (1, 2, 4, 8):
        made[f"IVFRaBitQ, {bits} bits"] = faiss.IndexIVFRaBitQ(
            coarse(), dim, nlist, faiss.METRIC_L2, True, bits
        )
    for parts in (dim // 4, dim // 2):
        if parts and dim % parts == 0:
            made[f"IVFPQFastScan, {parts} × 4 bits"] = faiss.IndexIVFPQFastScan(
                coarse(), dim, nlist, parts, 4
            )
    for kind, label in (
        (faiss.ScalarQuantizer.QT_4bit, "4 bits"),
        (faiss.ScalarQuantizer.QT_8bit, "8 bits"),
        (faiss.ScalarQuantizer.QT_fp16, "fp16"),
    ):
        made[f"IVFScalarQuantizer, {label}"] = faiss.IndexIVFScalarQuantizer(
            coarse(), dim, nlist, kind, faiss.METRIC_L2, True
        )
    return made


def faiss_codec(lists: Lists, label: str, index: Any) -> dict[str, Any]:
    """Recall of one codec of faiss over all its lists, on the same centroids.

    RaBitQ gets rows that are rotated at random before, since faiss leaves that to its caller.
    """
    base, queries, centroids = lists.base, lists.queries, lists.centroids
    if "RaBitQ" in label:
        turn = faiss.RandomRotationMatrix(base.shape[1], base.shape[1])
        turn.init(5)
        base, queries, centroids = (turn.apply(x) for x in (base, queries, centroids))
    index.quantizer.add(centroids)
    picks = np.random.default_rng(0).choice(len(base), min(len(base), SAMPLE), replace=False)
    start = time.process_time()
    index.train(base[picks])
    trained = time.process_time() - start
    start = time.process_time()
    index.add(base)
    encoded = time.process_time() - start
    index.nprobe = len(centroids)
    _, found = index.search(queries, RERANKED)
    return {
        "library": "faiss",
        "codec": label,
        "code_bytes_per_row": int(index.code_size),
        "posting_bytes_per_row": int(index.code_size) + 8,
        "recall_codes": lists.recall(found),
        "recall_reranked": lists.reranked(found),
        "train_seconds": trained,
        "encode_seconds": encoded,
    }


def quality(data: Data, queries: int, codecs: Sequence[str], baselines: bool) -> Iterator[Any]:
    """Measure codecs on one set, one record after the other.

    Parameters
    ----------
    data : Data
    queries : int
        Held-out queries to use.
    codecs : sequence of str
        Of vecstore.
    baselines : bool
        Measure faiss's codecs too.
    """
    lists = Lists(data, queries)
    rows, dim = lists.base.shape
    facts = {
        "dataset": data.name,
        "rows": rows,
        "dim": dim,
        "metric": data.metric,
        "queries": len(lists.queries),
        "lists": len(lists.centroids),
    }
    for name in codecs:
        yield {**facts, **vecstore_codec(lists, name)}
    if baselines:
        for label, index in faiss_indexes(dim, len(lists.centroids)).items():
            yield {**facts, **faiss_codec(lists, label, index)}
