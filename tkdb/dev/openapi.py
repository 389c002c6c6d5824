"""The methods of ``tkdb.api``, as ``tkdb dev`` serves them, described in OpenAPI 3.1.

>>> sorted(document()["paths"])[:3]
['/dev/hand-over', '/dev/mint', '/dev/organization.configure']
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

import tkdb
from tkdb.dev.plain import HEX_PATTERN
from tkdb.server.methods import BY_NAME, Kind, name_of, summary_of

_REFERENCE: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {
    "title": "Problem",
    "description": "RFC 9457. If a token is denied, `reason` is one of a closed list.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string"},
        "caveat": {"type": "integer", "description": "The caveat that denied, counted from 1."},
    },
    "required": ["type", "title", "status", "detail"],
}
_CAVEAT: Final = {
    "description": "One typed caveat: its JSON array, or that array as text.",
    "anyOf": [{"type": "array", "minItems": 1}, {"type": "string"}],
    "examples": [["act", "r"]],
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document, as a value that JSON can represent."""
    kinds = [kind for _, kind in BY_NAME.values()]
    _, schemas = msgspec.json.schema_components([*kinds, *(kind.result for kind in kinds)], ref_template=_REFERENCE)
    schemas = {name: _readable(schema) for name, schema in schemas.items()}
    for kind in kinds:
        _without_method(schemas[kind.__name__])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tkdb dev",
            "version": tkdb.__version__,
            "description": "The authority's methods as plain JSON, on loopback only. Production uses HTTP/Noise.",
        },
        "paths": {f"/dev/{name}": {"post": _operation(path, kind)} for name, (path, kind) in BY_NAME.items()},
        "components": {"schemas": {**schemas, "Problem": _PROBLEM}},
    }


def _operation(path: str, kind: Kind) -> dict[str, Any]:
    result = {
        "type": "object",
        "properties": {
            "position": {"type": "integer", "minimum": 0, "description": "The position of the journal's tip."},
            "result": {"$ref": _REFERENCE.format(name=kind.result.__name__)},
        },
        "required": ["position", "result"],
    }
    problem = {"application/problem+json": {"schema": {"$ref": _REFERENCE.format(name="Problem")}}}
    return {
        "operationId": name_of(kind),
        "summary": summary_of(kind),
        "tags": [path],
        "requestBody": {
            "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}},
        },
        "responses": {
            "200": {"description": "The result.", "content": {"application/json": {"schema": result}}},
            "default": {"description": "The problem; 403 if a token is denied.", "content": problem},
        },
    }


def _readable(schema: Any) -> Any:
    """Describe bytes as ``tkdb.dev.plain`` writes them, and patterns as JSON Schema (ECMA-262) defines them."""
    if isinstance(schema, list):
        return [_readable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("contentEncoding") == "base64":
        return {"type": "string", "pattern": HEX_PATTERN} if "minLength" in schema else _CAVEAT
    return {
        name: value.replace(r"\Z", "$") if name == "pattern" and isinstance(value, str) else _readable(value)
        for name, value in schema.items()
    }


def _without_method(schema: dict[str, Any]) -> None:
    """Remove the method from a schema, because it is in the path."""
    del schema["properties"]["method"]
    schema["required"].remove("method")
