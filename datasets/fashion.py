"""Fashion-MNIST: 28 x 28 grey pictures of clothes, ten labels, pixels 0..255 as the vector.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", 2017, https://arxiv.org/abs/1708.07747. The base is the training set;
queries are drawn from the test set, as in the ann-benchmarks set fashion-mnist-784-euclidean.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets import sources
from datasets.errors import SourceChanged
from datasets.recipe import HOLD_OUT_SEED, QUERY_COUNT, Parts, Recipe, Report

_PACKAGE = "dataset-fashion-mnist"
_SHA256 = {
    "train-labels-idx1-ubyte.gz": (
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"
    ),
    "train-images-idx3-ubyte.gz": (
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"
    ),
}
_IDX_UINT8 = 0x08


def parse_idx(content: bytes, source: str = "IDX data") -> NDArray[np.uint8]:
    """Decode an IDX file of unsigned bytes.

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a
    big-endian uint32, then the values in C order.

    Parameters
    ----------
    content : bytes
        The whole file, decompressed.
    source : str
        Named in errors.

    Raises
    ------
    SourceChanged
        If the header is not IDX of uint8, or the length disagrees with it.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_UINT8:
        raise SourceChanged(
            source, f"not IDX of uint8: starts with {content[:4].hex() or 'nothing'}"
        )
    dimensions = content[3]
    header_bytes = 4 + 4 * dimensions
    if len(content) < header_bytes:
        raise SourceChanged(source, f"header of {dimensions} dimensions is cut short")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    expected = header_bytes + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise SourceChanged(source, f"has {len(content)} bytes, shape {shape} needs {expected}")
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)


def make(report: Report) -> Parts:
    """Decode the four IDX files and draw the queries from the test pictures."""
    arrays: dict[str, NDArray[np.uint8]] = {}
    version = _PACKAGE
    for step, (name, digest) in enumerate(_SHA256.items()):
        report("decoding pictures", step, len(_SHA256))
        path, version = sources.debian_file(_PACKAGE, name)
        sources.expect_sha256(path, digest)
        arrays[name.split("-ubyte")[0]] = _read(path)
    report("decoding pictures", len(_SHA256), len(_SHA256))
    test = arrays["t10k-images-idx3"].reshape(-1, 784)
    drawn = np.random.default_rng(HOLD_OUT_SEED).choice(len(test), QUERY_COUNT, replace=False)
    drawn.sort()
    return Parts(
        base=arrays["train-images-idx3"].reshape(-1, 784).astype(np.float32),
        queries=test[drawn].astype(np.float32),
        columns={"labels": arrays["train-labels-idx1"].astype(np.int32)},
        query_columns={"labels": arrays["t10k-labels-idx1"][drawn].astype(np.int32)},
        sources=[version],
    )


def _read(path: Path) -> NDArray[np.uint8]:
    return parse_idx(gzip.decompress(path.read_bytes()), path.name)


RECIPE = Recipe(
    name="fashion",
    metric="l2",
    title="Fashion-MNIST pictures, 784-d",
    licence="Expat (MIT)",
    make=make,
)
