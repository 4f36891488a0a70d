"""The methods of the study by name, in the order of tables and plots."""

from __future__ import annotations

from bench.channel import BenchError
from bench.compression.contract import Compressor
from bench.compression.dedup import Dedup
from bench.compression.lowrank import Pca, Svd
from bench.compression.magnitude import MagPq, MagSvd
from bench.compression.pq import Opq, Pq
from bench.compression.rabitq import Rabitq
from bench.compression.scalar import Float, Integer
from bench.compression.sparse import Pruner
from bench.compression.tt import TensorTrain

#: Kept as it is at 100 %: what its file deflates to, and how fast rows are read.
REFERENCE = Float(32)

_METHODS: tuple[Compressor, ...] = (
    Float(16),
    Integer(16),
    Integer(8),
    Integer(4),
    Pruner(),
    Dedup(),
    Pq(),
    MagPq(),
    Opq(),
    Svd(),
    MagSvd(),
    Pca(),
    Pca("pca-int8", "principal components, int8 coefficients", 8),
    TensorTrain(),
    Rabitq(),
)
METHODS: dict[str, Compressor] = {method.name: method for method in _METHODS}


def find_method(name: str) -> Compressor:
    """The method called ``name``.

    Raises
    ------
    BenchError
        There is none of that name.
    """
    if name not in METHODS:
        raise BenchError(f"No method is called {name!r}; there are: {', '.join(METHODS)}.")
    return METHODS[name]
