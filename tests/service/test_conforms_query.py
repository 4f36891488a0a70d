"""Reading through the service: the tests of tests/test_query.py, test_facts.py, test_explain.py."""

from __future__ import annotations

from typing import Any

import pytest

import tests.test_explain
import tests.test_facts
import tests.test_query
from tests.service.checks import adopt


@pytest.fixture
def docs(store: Any) -> Any:
    return store.collection("docs", dim=4)


BELOW = (
    "test_identical_rows",  # thousands of rows, about the index alone
    "test_ties_come_by_insertion",
    "test_every_row_is_found_once",
    "test_many_queries_at_once_equal_one_by_one",  # unless upkeep comes between
    "test_a_batch_names_the_first_query_that_cannot_be_asked",  # of how many threads ask
)

adopt(tests.test_query, globals(), but=BELOW)
adopt(tests.test_facts, globals())
adopt(tests.test_explain, globals())
