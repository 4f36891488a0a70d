"""A commit that reached the disk and not LMDB's table of readers, because its process was killed.

Who opens the store while others have it open must take it for what it is: part of the store.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.crash import shim
from tests.store_checks import ROOT
from vecstore.config import BULK_ROWS_MIN
from vecstore.store import receipts_of

KILLED = """
import sys
from pathlib import Path
import numpy as np
import vecstore
from tests.crash import shim
from vecstore.store import receipts_of

path, ids = Path(sys.argv[1]), np.arange(int(sys.argv[2]))
shim.arm(path, die_at=1, in_commit=True)
store = vecstore.open(path)
docs = store.collection("docs")
with receipts_of(store).carrying(bytes(16), bytes(16)):
    docs.upsert(ids, np.ones((len(ids), 2)))
raise AssertionError("the process outlived its commit")
"""


@pytest.mark.parametrize("rows", [1, 2 * BULK_ROWS_MIN], ids=["a row", "an extent"])
def test_a_commit_that_only_the_disk_knows_of(tmp_path: Path, rows: int) -> None:
    library = shim.build(tmp_path)
    if library is None:
        pytest.skip("needs a C compiler and Linux")
    path = tmp_path / "store"
    with vecstore.open(path) as store:
        store.collection("docs", dim=2)
    with vecstore.open(path, "r") as reading:  # so that the table of readers stays as it is
        assert reading.collection("docs").count() == 0
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(path), str(rows)],
            env={**os.environ, "LD_PRELOAD": str(library)},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 137, done.stderr
        with vecstore.open(path) as store:
            assert receipts_of(store).find(bytes(16)) is not None
            docs = store.collection("docs")
            assert docs.count() == rows
            docs.upsert([rows], [[2.0, 2.0]])
            assert docs.count() == rows + 1
            assert (docs.vectors(np.arange(rows)) == 1).all()
            assert store.check() == []
