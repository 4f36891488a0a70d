"""What every test module may use: hypothesis profiles and the small real data sets.

`pytest` runs the profile "ci": the same examples each time, so that a red run is red for everybody.
`make soak` passes `--hypothesis-profile=soak`: many more, and new ones each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
METRIC_OF = {"glove50": "cosine", "wordnet_minilm384": "cosine", "fashion784": "l2"}

# The first call of a kernel compiles it, which no deadline and no health check should count.
SLOW_FIRST_CALL = [HealthCheck.too_slow]
EXAMPLES = 50
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=SLOW_FIRST_CALL,
)
settings.register_profile(
    "soak", deadline=None, max_examples=10 * EXAMPLES, suppress_health_check=SLOW_FIRST_CALL
)
settings.load_profile("ci")


def examples(count: int) -> int:
    """So many examples with `make test`, in proportion more with `make soak`."""
    return count * settings().max_examples // EXAMPLES


@pytest.fixture(scope="session", autouse=True)
def one_faiss_thread() -> None:
    """faiss' threads wait for each other by spinning: on few rows that is all they do."""
    faiss.omp_set_num_threads(1)


@dataclass(frozen=True)
class SmallSet:
    """A sample of real data with held-out queries and their exact neighbours.

    The arrays are shared by all tests of a run and cannot be written to.
    """

    name: str
    metric: str  # the one that `gt` is exact under
    base: NDArray[np.float32]  # (n, d)
    query: NDArray[np.float32]  # (100, d); none of them is in base
    gt: NDArray[np.int32]  # (100, 10) rows of base, nearest first
    about: dict[str, NDArray[Any]]  # (n,) each: "words", "text", "tenant", where the set has it

    @property
    def dim(self) -> int:
        return self.base.shape[1]


def load_small_set(name: str) -> SmallSet:
    """Read one set from tests/fixtures; a missing file fails the test that asked for it."""
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    base, query = (arrays.pop(key).astype(np.float32) for key in ("base", "query"))
    gt = arrays.pop("gt")
    for array in (base, query, gt, *arrays.values()):
        array.setflags(write=False)
    return SmallSet(name, METRIC_OF[name], base, query, gt, about=arrays)


@pytest.fixture(scope="session")
def small_sets() -> dict[str, SmallSet]:
    """All three sets by name: "glove50", "wordnet_minilm384", "fashion784"."""
    return {name: load_small_set(name) for name in METRIC_OF}


@pytest.fixture(scope="session", params=sorted(METRIC_OF))
def small_set(request: pytest.FixtureRequest, small_sets: dict[str, SmallSet]) -> SmallSet:
    """One set after the other: a test that takes this runs three times."""
    return small_sets[request.param]
