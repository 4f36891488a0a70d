"""Extents on their way into a collection: what a build has written, or finds written already."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore.extent_set import Identity
from vecstore.extents import Extent, extent_path
from vecstore.layout import ExtentRecord

U32 = NDArray[np.uint32]


@dataclass
class Built:
    """Extents written and not yet published, and what to publish with them.

    Attributes
    ----------
    extents : dict
        Records by extent number.
    numbers : uint32 (new rows,)
        Row number of each new row, in input order.
    directory : int
        Extent of new directories; 0 when there are none.
    process : int
        The one that wrote them.
    """

    identity: Identity
    extents: dict[int, ExtentRecord] = field(default_factory=dict)
    numbers: U32 = field(default_factory=lambda: np.empty(0, np.uint32))
    directory: int = 0
    process: int = field(default_factory=os.getpid)

    def open(self, number: int) -> Extent:
        """Map an extent that was just written."""
        return Extent(self.identity.folder, number, self.extents[number], self.identity.name)

    def abandon(self, keep: Callable[[int], bool]) -> None:
        """Remove the files, but those that `keep` names; a forked child has none."""
        if os.getpid() != self.process:
            return
        for number in self.extents:
            if not keep(number):
                extent_path(self.identity.folder, number).unlink(missing_ok=True)


class Kept(Protocol):
    """Extents that an earlier build, which was cut short, has finished."""

    @property
    def keeps(self) -> bool:
        """Whether those of this one are kept."""

    def extent(self, stage: str, first: int, digest: bytes) -> tuple[int, ExtentRecord] | None:
        """Find the one that was written from the same input."""

    def add_extent(
        self, stage: str, first: int, digest: bytes, number: int, record: ExtentRecord
    ) -> None:
        """Keep one that is whole and synced."""

    def owns(self, number: int) -> bool:
        """Tell whether an extent is kept."""


class Fresh:
    """Nothing is kept: what fails is removed."""

    keeps = False

    def extent(self, stage: str, first: int, digest: bytes) -> tuple[int, ExtentRecord] | None:
        """Find nothing."""
        return None

    def add_extent(
        self, stage: str, first: int, digest: bytes, number: int, record: ExtentRecord
    ) -> None:
        """Leave it to the caller."""

    def owns(self, number: int) -> bool:
        """Own none."""
        return False


def digest_of(*arrays: NDArray[Any] | None) -> bytes:
    """Hash arrays, as a name for what is made of them."""
    digest = xxhash.xxh3_128()
    for array in arrays:
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
