"""What a posting codec is: its name, its kernel and the bytes that its rows take."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.codecs.model import Model, train_model
from vecstore.config import BLOCK_ROWS, DIM_MAX, Metric
from vecstore.errors import InvalidArgumentError
from vecstore.kernels import view as v

PARTS_MAX = 4_096


@dataclass(frozen=True)
class Codec:
    """A way to encode the rows of a posting.

    Attributes
    ----------
    name : str
        As users write it and collections store it.
    kind : int
        Which kernels read it (see `vecstore.kernels.view`).
    bits : int
        Bits per dimension; 0 where parts are coded together.
    parts : int
        Parts of a vector that have a codebook each; 0 for other codecs.
    turned : bool
        Product quantisation after a learned rotation.
    """

    name: str
    kind: int
    bits: int = 0
    parts: int = 0
    turned: bool = False

    def block_bytes(self, dim: int) -> int:
        """Bytes of one block of 32 rows, without what stands behind the blocks of a run."""
        if self.kind == v.RABITQ:
            return layout.sign_block_bytes(dim)
        if self.kind == v.PQ:
            return layout.parts_block_bytes(self.parts)
        if self.kind in (v.FLOAT32, v.FLOAT16):
            return layout.value_block_bytes(dim, self.bits // 8)
        return layout.grid_block_bytes(dim, self.bits)

    def extra_bytes(self, dim: int) -> int:
        """Bytes of a row behind the blocks of its run."""
        return layout.extra_bytes(dim, self.bits) if self.kind == v.RABITQ else 0

    def run_block_bytes(self, dim: int) -> int:
        """Bytes of a run for each of its blocks, all included."""
        return self.block_bytes(dim) + BLOCK_ROWS * self.extra_bytes(dim)

    def row_bytes(self, dim: int) -> float:
        """Bytes of an entry of a posting whose blocks are full."""
        return self.run_block_bytes(dim) / BLOCK_ROWS

    def steps(self, dim: int) -> int:
        """Rounds of the block kernel's inner loop."""
        padded = layout.padded_dim(dim)
        rounds = {v.RABITQ: padded // 64, v.INT8: padded // 4, v.INT4: padded // 8}
        return self.parts or rounds.get(self.kind, dim)

    def part_dim(self, dim: int) -> int:
        """Dimensions of a part."""
        return -(-dim // self.parts) if self.parts else 0

    def train(self, x: NDArray[np.float32], metric: str = "l2", seed: int = 0) -> Model:
        """Train the codec for rows that are encoded against centroids near their mean.

        Parameters
        ----------
        x : float32 (n, dim)
            A sample; under cosine only directions count.
        metric : {"l2", "cosine", "ip"}
        seed : int
        """
        x = np.ascontiguousarray(x, np.float32)
        if metric == "cosine":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        centre = np.asarray(x.mean(axis=0), np.float32)
        return train_model(self, Metric.parse(metric), seed, centre, x - centre)


_PLAIN = {
    codec.name: codec
    for codec in (
        Codec("float32", v.FLOAT32, 32),
        Codec("float16", v.FLOAT16, 16),
        Codec("int8", v.INT8, 8),
        Codec("int4", v.INT4, 4),
        *(Codec(f"rabitq{bits}", v.RABITQ, bits) for bits in range(1, 9)),
    )
}
_PARTED = re.compile(r"(o?pq)([1-9]\d{0,3})")


FEW_DIMS_MAX = 255


def default_codec(dim: int) -> Codec:
    """Codec that "auto" stands for.

    Measured on warm data at equal recall of 90 to 99 %. With few dimensions three bits are
    quickest (GloVe, 50: kernels take 8 to 15 % less than with two; SIFT, 128: 4 to 10 % less up to
    95 %). With many, what stands beside the sign bits costs more to look at: two bits take 5 to
    10 % less than one on Fashion-MNIST (784) and 10 % less on WordNet in MiniLM (384), where
    three are level with two.
    """
    return _PLAIN["rabitq3" if dim <= FEW_DIMS_MAX else "rabitq2"]


def find_codec(name: str, dim: int = DIM_MAX) -> Codec:
    """Return the codec called `name`, or what "auto" stands for in `dim` dimensions.

    Raises
    ------
    InvalidArgumentError
        There is none of this name, or it divides vectors into more parts than `dim`.
    """
    if isinstance(name, str) and name == "auto":
        return default_codec(dim)
    codec = _PLAIN.get(name) if isinstance(name, str) else None
    if codec is not None:
        return codec
    parted = _PARTED.fullmatch(name) if isinstance(name, str) else None
    if parted is not None and int(parted[2]) <= PARTS_MAX:
        if int(parted[2]) > dim:
            raise InvalidArgumentError(
                f"codec is {name!r}, but vectors have {dim} dimensions and cannot be divided into "
                f"more parts than that."
            )
        return Codec(name, v.PQ, 0, int(parted[2]), parted[1] == "opq")
    raise InvalidArgumentError(
        f"codec is {name!r}; use 'auto', 'float32', 'float16', 'int8', 'int4', 'rabitq1' to "
        f"'rabitq8', or 'pq' or 'opq' and the number of bytes, as in 'pq32'."
    )
