"""A collection keeps its rules through the service, in both encodings: tests/test_collection.py."""

from __future__ import annotations

from typing import Any

import pytest

import tests.test_collection
from tests.service.checks import adopt


@pytest.fixture
def docs(store: Any) -> Any:
    return store.collection("docs", dim=4)


adopt(tests.test_collection, globals())
