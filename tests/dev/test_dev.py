"""Plain JSON for ``tkdb dev``: easy to use with curl, and open only to this machine."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import api, errors
from tkdb.channel.envelope import prologue, verify_signature
from tkdb.dev import openapi, page, plain
from tkdb.server.methods import BY_NAME, name_of
from tkdb.settings import Address


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "10.0.0.1:0"])
def test_plain_json_is_refused_on_any_address_but_loopback(start: Any, run: Any, bind: str) -> None:
    async def test() -> None:
        with pytest.raises(errors.ConfigurationError, match="loopback only"):
            async with start(dev=True, bind=Address.parse(bind)):
                pass

    run(test())


def test_a_method_is_answered_with_position_and_result(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(dev=True) as server:
            response = await server.http.post("/dev/organization.create", json={"name": "acme"})
            assert response.status_code == 200
            assert response.json()["position"] == 7
            assert response.json()["result"]["keys"][0]["kid"] == "000102030405060708090a0b0c0d0e0f"
            assert (await server.http.post("/dev/status")).json()["result"]["role"] == "primary"

    run(test())


def test_the_local_signer_has_its_permissions_and_signs_each_call(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(dev=True) as server:
            await server.http.post("/dev/mint", json={"organization": "acme", "caveats": [["act", "r"]]})
            [(call, caller)] = server.service.calls
            assert call == api.Mint("acme", [b'["act","r"]'])
            for permission in ("mint", "revoke", "organizations", "reseal"):
                assert caller.signer.permits(permission, "acme")
            context = prologue(api.SIGN, server.settings.name)
            verify_signature(
                caller.signer.key, context, caller.signed_ms, caller.request_id, caller.body, caller.signature
            )

    run(test())


@pytest.mark.parametrize(
    ("error", "status", "members"),
    [
        (errors.CaveatUnmet("act allows r", caveat=3), 403, {"reason": "caveat unmet", "caveat": 3}),
        (errors.NotPermitted("not yours"), 403, {"type": "urn:tkdb:problem:not-permitted"}),
        (errors.NotFound("no such organization"), 404, {}),
        (errors.Conflict("it exists"), 409, {}),
        (errors.StoreUnwritable("disk full", retry_after_ms=1500), 503, {}),
        (errors.BrokenJournal("altered"), 500, {}),
    ],
)
def test_errors_are_problems_and_a_denial_names_its_reason(
    start: Any, run: Any, error: Any, status: int, members: dict[str, Any]
) -> None:
    async def test() -> None:
        async with start(dev=True) as server:
            server.service.raises = error
            response = await server.http.post("/dev/mint", json={"organization": "acme"})
            assert response.status_code == status
            assert response.json() | {"status": status, "title": error.message} | members == response.json()
            assert ("reason" in response.json()) == isinstance(error, errors.Denied)

    run(test())


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("mint", "not json"),
        ("mint", "[]"),
        ("mint", '{"organization": "acme", "planted": 1}'),
        ("mint", '{"organization": "acme", "method": "mint"}'),
        ("mint", '{"organization": "ACME"}'),
        ("mint", "[" * 5000),
        ("revocations", '{"kids": ["AAAA"], "after": 0}'),
        ("revocations", json.dumps({"kids": ["00" * 15 + "0G"], "after": 0})),
    ],
)
def test_an_unreadable_body_is_refused(start: Any, run: Any, method: str, body: str) -> None:
    async def test() -> None:
        async with start(dev=True) as server:
            response = await server.http.post(f"/dev/{method}", content=body)
            assert response.status_code == 400
            assert response.json()["type"] == "urn:tkdb:problem:invalid-request"
            assert server.service.calls == []

    run(test())


def test_an_unknown_method_is_not_found(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(dev=True) as server:
            assert (await server.http.post("/dev/nothing")).status_code == 404

    run(test())


@pytest.mark.parametrize("path", ["/dev/status", "/", "/openapi.json"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.attacker.example"},
        {"host": "127.0.0.1.attacker.example"},
        {"host": "localhost.attacker.example:8080"},
        {"host": "10.0.0.1"},
        {"origin": "https://attacker.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_request_from_a_foreign_page_or_to_a_rebound_name_is_refused(
    start: Any, run: Any, path: str, headers: dict[str, str]
) -> None:
    async def test() -> None:
        async with start(dev=True) as server:
            method = "POST" if path.startswith("/dev") else "GET"
            refused = await server.http.request(method, path, headers=headers)
            assert refused.status_code == 403
            assert refused.json()["type"] == "urn:tkdb:problem:foreign-origin"
            assert server.service.calls == []
            own = {"origin": f"http://{server.address}", "sec-fetch-site": "same-origin"}
            assert (await server.http.request(method, path, headers=own)).status_code == 200

    run(test())


def test_the_page_lists_each_method_and_loads_no_resource(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(dev=True) as server:
            response = await server.http.get("/")
            for method in BY_NAME:
                assert f"http://{server.address}/dev/{method} "[7:] in response.text
            assert "<script" not in response.text
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert re.findall(r'(?:src|href)="([^"]*)"', response.text) == ["/openapi.json"]

    run(test())


def test_every_example_on_the_page_is_a_readable_call() -> None:
    for name, (_, kind) in BY_NAME.items():
        body = page.EXAMPLES.get(name, {})
        assert isinstance(plain.read(kind, {**body, "method": name}), kind)


def test_the_openapi_document_has_a_path_for_every_method(start: Any, run: Any) -> None:
    async def test() -> None:
        async with start(dev=True) as server:
            document = (await server.http.get("/openapi.json")).json()
            assert document == json.loads(json.dumps(openapi.document()))
            assert document["openapi"] == "3.1.0"
            assert set(document["paths"]) == {f"/dev/{name}" for name in BY_NAME}

    run(test())


def test_every_openapi_reference_resolves_and_no_field_is_base64() -> None:
    document = openapi.document()
    schemas = document["components"]["schemas"]

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            assert "contentEncoding" not in value
            assert r"\Z" not in str(value.get("pattern", ""))
            if isinstance(value.get("$ref"), str):
                assert value["$ref"].removeprefix("#/components/schemas/") in schemas
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(document)
    for name, operation in document["paths"].items():
        post = operation["post"]
        assert set(post["responses"]) == {"200", "default"}
        reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert "method" not in schemas[reference.rpartition("/")[2]]["properties"], name


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_call_written_as_json_reads_back(kid: bytes, nonce: bytes) -> None:
    call = api.Revoke([api.Lineage(kid, nonce), api.RetireKey(kid), api.Before("acme", 1, "ann")])
    assert plain.read(api.Revoke, json.loads(msgspec.json.encode(plain.write(call)))) == call


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["00" * 16, "lineage", "key", "acme"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "kid", "nonce", "targets"]), inner),
)
FIELDS = st.sampled_from(["targets", "kids", "after", "wait_ms", "organization", "caveats", "bundles", "name", "token"])


@given(st.sampled_from([kind for _, kind in BY_NAME.values()]), st.dictionaries(FIELDS, JSON))
def test_any_json_is_read_as_a_call_or_raises_invalid_request(kind: Any, fields: dict[str, Any]) -> None:
    try:
        assert isinstance(plain.read(kind, {**fields, "method": name_of(kind)}), kind)
    except errors.InvalidRequest as error:
        assert "\n" not in error.message  # noqa: PT017  either outcome is right
