"""What a collection may be when it is made, and whether one that exists is what was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecstore.codecs import find_codec
from vecstore.config import DIM_MAX, Metric
from vecstore.errors import CollectionMismatchError, InvalidArgumentError
from vecstore.layout import CollectionRecord
from vecstore.raw_forms import find_form


def check_options(
    dim: Any, metric: str | None, tenants: Any, codec: str | None, raw: str | None
) -> None:
    """Refuse options that no collection can have."""
    if dim is not None and (
        isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not 1 <= dim <= DIM_MAX
    ):
        raise InvalidArgumentError(f"dim is {dim!r}; use an int from 1 to {DIM_MAX}.")
    if metric is not None:
        Metric.parse(metric)
    if codec is not None:
        find_codec(codec, DIM_MAX if dim is None else int(dim))
    if tenants is not None and not isinstance(tenants, bool):
        raise InvalidArgumentError(f"tenants is {tenants!r}; use True or False.")
    if raw is not None:
        find_form(raw)


def compare(
    name: str,
    record: CollectionRecord,
    dim: int | None,
    metric: str | None,
    tenants: bool | None,
    codec: str | None,
    raw: str | None,
) -> None:
    """Raise when a collection differs from the options given; None stands for any."""
    stored = {
        "dim": record.dim,
        "metric": Metric(record.metric).label,
        "tenants": record.tenants,
        "codec": record.codec,
        "raw": record.raw,
    }
    given = {"dim": dim, "metric": metric, "tenants": tenants, "codec": codec, "raw": raw}
    for option, value in given.items():
        if value is not None and value != stored[option]:
            raise CollectionMismatchError(
                f"Collection {name!r} has {option} {stored[option]!r}, not {value!r}; "
                f"leave the argument out, or use another name."
            )
