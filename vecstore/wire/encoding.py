"""Bytes of bodies: JSON, with vectors as lists or base64, and msgpack, with vectors as bytes."""

from __future__ import annotations

import base64
import math
import sys
from enum import Enum
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from vecstore.errors import InvalidArgumentError, InvalidVectorError

F32 = NDArray[np.float32]
JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"
LINES_TYPE: Final = "application/jsonl"
_SWAP = sys.byteorder == "big"


class Form(Enum):
    """How a body is written."""

    JSON = JSON_TYPE
    BASE64 = f"{JSON_TYPE}; vectors=base64"
    MSGPACK = MSGPACK_TYPE


@lru_cache(64)
def parse_form(media_type: str) -> Form | None:
    """Find the form that a Content-Type or Accept names; None when it is neither of ours."""
    kind, _, parameters = media_type.lower().partition(";")
    kind = kind.strip()
    if kind == MSGPACK_TYPE:
        return Form.MSGPACK
    if kind == JSON_TYPE:
        return Form.BASE64 if "vectors=base64" in parameters.replace(" ", "") else Form.JSON
    return None


def bytes_of(array: NDArray[Any]) -> bytes:
    """Write numbers little-endian."""
    if array.dtype.byteorder == ">" or (_SWAP and array.dtype.byteorder == "="):
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def array_of(raw: bytes, dtype: str) -> NDArray[Any]:
    """Read numbers written by `bytes_of`; the array is native and may be written to."""
    kind = np.dtype(dtype)
    return np.frombuffer(raw, kind.newbyteorder("<")).astype(kind)


def _as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        listed = value.tolist()
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return _without_infinity(listed)
        return listed
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} has no form on the wire")


def _without_infinity(values: Any) -> Any:
    if isinstance(values, list):
        return [_without_infinity(value) for value in values]
    return values if math.isfinite(values) else None


def _as_bytes(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fi":
        return bytes_of(value)
    return _as_list(value)


def _as_base64(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == np.float32 and np.isfinite(value).all():
        return base64.b64encode(bytes_of(value)).decode()
    return _as_list(value)


_ENCODERS: dict[Form, Any] = {
    Form.JSON: msgspec.json.Encoder(enc_hook=_as_list),
    Form.BASE64: msgspec.json.Encoder(enc_hook=_as_base64),
    Form.MSGPACK: msgspec.msgpack.Encoder(enc_hook=_as_bytes),
}


def encode(body: Any, form: Form) -> bytes:
    """Write a body."""
    written: bytes = _ENCODERS[form].encode(body)
    return written


class Decoder:
    """Reads bodies of one type in every form."""

    def __init__(self, kind: Any) -> None:
        json = msgspec.json.Decoder(kind)
        self._decode = {
            Form.JSON: json.decode,
            Form.BASE64: json.decode,
            Form.MSGPACK: msgspec.msgpack.Decoder(kind).decode,
        }

    def __call__(self, raw: bytes | bytearray, form: Form) -> Any:
        """Read a body.

        Raises
        ------
        InvalidArgumentError
            It is cut short, malformed, nested too deeply, or of another shape.
        """
        try:
            return self._decode[form](raw)
        except msgspec.ValidationError as error:
            raise InvalidArgumentError(f"The body does not fit: {error}.") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidArgumentError(f"The body is malformed: {error}.") from None
        except RecursionError:
            raise InvalidArgumentError("The body is nested too deeply; flatten it.") from None


def read_vector(vector: list[float] | bytes) -> F32:
    """Read one vector (dim,)."""
    if isinstance(vector, list):
        with np.errstate(over="ignore"):
            return np.array(vector, np.float32)
    return _floats(vector)


def read_vectors(vectors: Any, dim: int, scalar: bool = False) -> Any:
    """Read vectors (n, dim); a single one where a single id came with it.

    Raises
    ------
    InvalidVectorError
        The lists are ragged, or the bytes are no whole number of vectors.
    """
    if isinstance(vectors, list):
        try:
            with np.errstate(over="ignore"):
                return np.array(vectors, np.float32)
        except (ValueError, TypeError) as error:
            raise InvalidVectorError(
                f"vectors is no rectangular array of numbers ({error})."
            ) from None
    floats = _floats(vectors)
    if scalar and len(floats) == dim:
        return floats
    if len(floats) % dim:
        raise InvalidVectorError(
            f"vectors has {len(vectors)} bytes, which is no multiple of the {4 * dim} of a vector "
            f"of {dim} float32."
        )
    return floats.reshape(-1, dim)


def _floats(raw: bytes) -> F32:
    if len(raw) % 4:
        raise InvalidVectorError(
            f"A vector has {len(raw)} bytes; float32 has 4 for each dimension."
        )
    return array_of(raw, "f4")
