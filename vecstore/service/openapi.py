"""The OpenAPI document, made from the table of verbs and the types that bodies are checked by."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import msgspec

from vecstore.wire import bodies
from vecstore.wire.encoding import JSON_TYPE, LINES_TYPE, MSGPACK_TYPE
from vecstore.wire.faults import STATUSES
from vecstore.wire.verbs import VERBS, Verb

_REFERENCE: Final = "#/components/schemas/{name}"
_OTHER_STATUSES: Final = (401, 405, 408, 415, 500)
_STREAMED: Final = {
    "export": ("application/gzip", "Rows as JSON lines, gzipped."),
    "backup": ("application/x-tar", "The folder of the store."),
}


@cache
def document() -> bytes:
    """Write the document."""
    return msgspec.json.encode(_document())


def _document() -> dict[str, Any]:
    kinds: list[Any] = [bodies.FaultBody]
    for verb in VERBS.values():
        kinds += [kind for kind in (verb.request, verb.answer) if kind is not None]
    _, schemas = msgspec.json.schema_components(list(dict.fromkeys(kinds)), ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for verb in VERBS.values():
        paths.setdefault(verb.path, {})[verb.method.lower()] = _operation(verb)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vecstore",
            "version": "1",
            "description": "The verbs of a vector store. Bodies are JSON, with vectors as lists "
            "or base64 of little-endian float32, or msgpack, with vectors as bytes.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _operation(verb: Verb) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": verb.name,
        "summary": verb.summary,
        "parameters": _parameters(verb),
        "responses": {"200": _answer(verb), **_faults()},
    }
    if verb.request is not None:
        schema = {"$ref": _REFERENCE.format(name=verb.request.__name__)}
        operation["requestBody"] = {
            "required": True,
            "content": {JSON_TYPE: {"schema": schema}, MSGPACK_TYPE: {"schema": schema}},
        }
    if verb.name == "import":
        operation["requestBody"] = {
            "required": True,
            "content": {LINES_TYPE: {"schema": {"type": "string"}}},
        }
    return operation


def _parameters(verb: Verb) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1, "maxLength": 256}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"{(\w+)}", verb.path)
    ]
    if verb.tenants:
        parameters.append(
            {
                "name": "tenant",
                "in": "query",
                "description": "Whose rows, in a collection with tenants; repeat it to read "
                "several as one.",
                "schema": {"type": "array", "items": text},
            }
        )
    if verb.takes_key:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The call is carried out once, however often it comes.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 256},
            }
        )
    return parameters


def _answer(verb: Verb) -> dict[str, Any]:
    if verb.answer is None:
        media_type, description = _STREAMED[verb.name]
        schema: dict[str, Any] = {"type": "string", "contentMediaType": media_type}
        return {"description": description, "content": {media_type: {"schema": schema}}}
    schema = {"$ref": _REFERENCE.format(name=verb.answer.__name__)}
    return {
        "description": verb.summary,
        "content": {JSON_TYPE: {"schema": schema}, MSGPACK_TYPE: {"schema": schema}},
    }


def _faults() -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(name=bodies.FaultBody.__name__)}
    faults: dict[str, Any] = {}
    for status in sorted({*STATUSES.values(), *_OTHER_STATUSES}):
        named = [kind.__name__ for kind, known in STATUSES.items() if known == status]
        faults[f"{status}"] = {
            "description": ", ".join(named) or "The call cannot be answered.",
            "content": {JSON_TYPE: {"schema": schema}},
        }
    return faults
