"""Tests of vecstore: `from tests import naive` is the oracle, `tests/conftest.py` the fixtures."""
