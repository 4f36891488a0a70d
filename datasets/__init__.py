"""Real datasets with exact neighbours, for tests and benchmarks of vecstore.

``python -m datasets prepare glove`` makes a set; ``datasets.load("glove")`` opens it.
"""

from __future__ import annotations

from datasets.errors import (
    DatasetCorrupt,
    DatasetError,
    DatasetMissing,
    SourceChanged,
    SourceMissing,
    UnknownDataset,
)
from datasets.registry import find, names
from datasets.store import Dataset
from datasets.store import load as _load

__all__ = [
    "Dataset",
    "DatasetCorrupt",
    "DatasetError",
    "DatasetMissing",
    "SourceChanged",
    "SourceMissing",
    "UnknownDataset",
    "load",
    "names",
]


def load(name: str) -> Dataset:
    """Open a prepared set as memory maps.

    Parameters
    ----------
    name : str
        One of `names()`.

    Raises
    ------
    UnknownDataset
        If there is no such set.
    DatasetMissing
        If it is not prepared; the message is the command to run.
    DatasetCorrupt
        If a file is absent or has another size than recorded.
    """
    return _load(find(name).name)
