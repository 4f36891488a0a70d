"""Search WordNet's glosses by what they mean, with a tenant for each part of the dictionary.

    python examples/wordnet_search.py wordnet.vecstore "a small bird that sings"
    python examples/wordnet_search.py http://127.0.0.1:7878 "a bird" --tenant noun.animal

The first argument is a folder, opened in this process, or the URL of a service; nothing else
differs. 2,000 glosses come with the repository. `--all` takes all 116,659, prepared before by
`python -m datasets prepare wordnet`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "tests" / "fixtures" / "wordnet_minilm384.npz"
BLOCK_ROWS = 4_096


def main(arguments: list[str] | None = None) -> None:
    """Find glosses for a text."""
    parser = argparse.ArgumentParser(description="Search WordNet's glosses by text.")
    parser.add_argument("where", help="folder of a store, or URL of a service")
    parser.add_argument("text", help="what to look for")
    parser.add_argument("--tenant", action="append", help="where to look; all without")
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--key", default=os.environ.get("VECSTORE_KEY"))
    parser.add_argument("--all", action="store_true", help="all glosses, not only the sample")
    given = parser.parse_args(arguments)
    with open_store(given.where, given.key) as store:
        glosses = fill(store, given.all)
        vector = embed(given.text)
        started = time.perf_counter()
        hits = search(glosses, vector, given.tenant, given.k)
        took_ms = (time.perf_counter() - started) * 1e3
    for hit in hits:
        sys.stdout.write(f"{hit.distance:.3f}  {hit.tenant:<14}  {hit.document}\n")
    sys.stdout.write(f"{took_ms:.2f} ms\n")


def open_store(where: str, key: str | None = None) -> Any:
    """Open a store in this process, or connect to one behind a service."""
    import vecstore

    if where.startswith(("http://", "https://", "unix:")):
        return vecstore.connect(where, key=key)
    return vecstore.open(where)


def fill(store: Any, everything: bool = False) -> Any:
    """Return the collection of glosses, filled if it is new."""
    glosses = store.collection("glosses", dim=384, metric="cosine", tenants=True)
    if not glosses.tenants():
        for ids, vectors, texts, tenants in blocks(everything):
            glosses.load(vectors, ids, documents=texts, tenants=tenants)
    return glosses


def search(glosses: Any, vector: Any, tenants: list[str] | None, k: int) -> list[Any]:
    """Find the glosses of some tenants that are nearest to a vector."""
    chosen = glosses.tenant(*(tenants or glosses.tenants()))
    hits: list[Any] = chosen.query(vector, k=k, include=("document",))
    return hits


def embed(text: str) -> Any:
    """Embed a text as the glosses are: all-MiniLM-L6-v2."""
    sys.path.insert(0, str(ROOT))
    from datasets.minilm import embed as embed_texts

    return embed_texts([text], lambda stage, done, total: None)[0]


def blocks(everything: bool) -> Iterator[tuple[Any, Any, list[str], list[str]]]:
    """Give ids, vectors, texts and tenants, some thousands at a time."""
    if not everything:
        with np.load(SAMPLE, allow_pickle=False) as sample:
            base, texts = sample["base"], sample["text"].tolist()
            yield np.arange(len(base)), base, texts, sample["tenant"].tolist()
        return
    sys.path.insert(0, str(ROOT))
    import datasets

    data = datasets.load("wordnet")
    texts, names, owners = data.texts, data.tenant_names, data.tenants
    for start in range(0, len(data.base), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(data.base)))
        tenants = [names[place] for place in owners[rows].tolist()]
        yield rows, data.base[rows], [texts[row] for row in rows.tolist()], tenants


if __name__ == "__main__":
    main()
