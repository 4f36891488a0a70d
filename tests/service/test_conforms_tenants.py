"""Tenants through the service: tests of tests/tenants.

Left out is what looks into the store beside its verbs, and what is decided below the service.
"""

from __future__ import annotations

import tests.tenants.test_grants
import tests.tenants.test_quotas
import tests.tenants.test_tenants
from tests.service.checks import adopt
from tests.tenants.conftest import docs, shapes

__all__ = ["docs", "shapes"]
adopt(tests.tenants.test_tenants, globals())
adopt(tests.tenants.test_quotas, globals(), but=("test_a_union_can_only_be_read",))
adopt(
    tests.tenants.test_grants,
    globals(),
    "test_a_granted_row_shows",
    "test_a_grantee_only_reads",
    "test_collisions",
)
