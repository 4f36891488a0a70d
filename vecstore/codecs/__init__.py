"""Posting codecs: how rows are encoded against the centroid of their posting.

A `Codec` is a name and its parameters; `Codec.train` makes a `Model`, which knows all that
encoding, estimating and decoding need.
"""

from __future__ import annotations

from vecstore.codecs.contract import Codec, default_codec, find_codec
from vecstore.codecs.model import Model, train_model

__all__ = ["Codec", "Model", "default_codec", "find_codec", "train_model"]
