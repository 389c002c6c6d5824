"""The list of signers: reading is strict, and an error names the signer or the field."""

from __future__ import annotations

import os
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import errors
from tkdb.channel.keys import SignerSecret
from tkdb.signers import Permission, Signers

KEY = SignerSecret.generate(os.urandom).public
OTHER = SignerSecret.generate(os.urandom).public


def table(**changes: str | None) -> str:
    fields = {"name": '"api"', "key": f'"{KEY.text()}"', "organizations": '["acme"]', "may": '["mint"]', **changes}
    return "[[signer]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None)


def test_a_signer_has_only_the_listed_permissions_for_the_listed_organizations() -> None:
    signer = Signers.parse_toml(table(organizations='["acme", "initech"]', may='["mint", "revoke"]')).by_key(KEY)
    assert signer.permits("mint", "acme")
    assert signer.permits("revoke", "initech")
    assert not signer.permits("organizations", "acme")
    assert not signer.permits("mint", "acme2")
    assert not signer.permits("mint", "*")


def test_a_star_means_every_organization_and_adds_no_permission() -> None:
    signer = Signers.parse_toml(table(organizations='["*"]')).by_name("api")
    assert signer.permits("mint", "anyone")
    assert [permission for permission in get_args(Permission) if signer.permits(permission, "anyone")] == ["mint"]


def test_signers_are_found_by_key_and_by_name() -> None:
    signers = Signers.parse_toml(table() + table(name='"ops"', key=f'"{OTHER.text()}"'))
    assert signers.by_key(OTHER) is signers.by_name("ops")
    assert [signer.name for signer in signers] == ["api", "ops"]
    assert len(signers) == 2
    with pytest.raises(errors.NotFound, match="nobody"):
        signers.by_name("nobody")


@pytest.mark.parametrize(
    "changes",
    [
        {"may": "[]"},
        {"retired": "true"},
        {"retired": "true", "may": None},
        {"retired": "true", "may": "[]", "organizations": '["*"]'},
    ],
)
def test_a_retired_signer_keeps_its_key_and_name_and_can_do_nothing(changes: dict[str, str | None]) -> None:
    signers = Signers.parse_toml(table(**changes) + table(name='"ops"', key=f'"{OTHER.text()}"'))
    retired = signers.by_name("api")
    assert (retired.key, retired.retired) == (KEY, True)
    assert not any(retired.permits(permission, "acme") for permission in get_args(Permission))
    assert not retired.acts_for("acme")
    assert signers.active_keys() == [OTHER]
    assert [signer.key for signer in signers] == [KEY, OTHER]  # the audit has both


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (table(name='"a b"'), "field name"),
        (table(name='""'), "field name"),
        (table(name=None), "signer number 1"),
        (table(key='"tkdbsignerpub_nonsense"'), "signer api, field key"),
        (table(key="3"), "signer api, field key"),
        (table(organizations="[]"), "signer api, field organizations"),
        (table(organizations='["ACME"]'), "signer api, field organizations"),
        (table(organizations='["*", "acme"]'), "signer api, field organizations"),
        (table(organizations='["acme", "acme"]'), "signer api, field organizations"),
        (table(organizations='"acme"'), "signer api, field organizations"),
        (table(may='["*"]'), "signer api, field may"),
        (table(may='["mint", "mint"]'), "signer api, field may"),
        (table(may=None), "signer api, field may: it is missing"),
        (table(may=None, retired="false"), "signer api, field may: it is missing"),
        (table(retired='"yes"'), "signer api, field retired"),
        (table(retired="true", may='["anything"]'), "signer api, field may"),
        (table(retired="true") + table(name='"api2"'), "signer api2, field key: api has it"),
        (table(maybe='["mint"]'), "signer api.*`maybe`"),
        (table() + table(key=f'"{OTHER.text()}"'), "signer api, field name"),
        (table() + table(name='"ops"'), "signer ops, field key: api has it"),
        ("[signer]\nname = 'api'", r"\[\[signer\]\]"),
        ("signer = 3", r"\[\[signer\]\]"),
        ("signer = [3]", "signer number 1"),
        ("[[signers]]\nname = 'api'", "signers"),
        ("[[signer]\n", "not TOML"),
    ],
)
def test_an_invalid_list_is_refused_with_the_signer_and_the_field(text: str, named: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=named):
        Signers.parse_toml(text)


def test_a_secret_key_instead_of_a_public_key_is_refused_and_not_repeated() -> None:
    secret = SignerSecret.generate(os.urandom).text()
    with pytest.raises(errors.ConfigurationError, match="a signer's secret key was given") as caught:
        Signers.parse_toml(table(key=f'"{secret}"'))
    assert secret not in str(caught.value)


def test_a_document_that_is_not_toml_is_not_repeated() -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        Signers.parse_toml('key = "planted-secret')
    assert "planted" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_read_or_raises_configuration_error(text: str) -> None:
    try:
        assert len(Signers.parse_toml(text)) == 0
    except errors.ConfigurationError as error:
        assert error.message  # noqa: PT017  both outcomes are correct


@given(st.dictionaries(st.sampled_from(["name", "key", "organizations", "may", "x"]), st.text(max_size=20), max_size=5))
def test_a_table_of_random_fields_is_refused(fields: dict[str, str]) -> None:
    lines = "".join(f"{name} = '''{value}'''\n" for name, value in fields.items())
    with pytest.raises(errors.ConfigurationError):
        Signers.parse_toml(f"[[signer]]\n{lines}")


def test_a_list_with_invalid_utf_8_is_refused() -> None:
    """If an environment variable's bytes aren't UTF-8, Python decodes them to lone surrogates."""
    for broken in ('["min\udcff"]', '["mint"] # \ud800'):
        with pytest.raises(errors.ConfigurationError, match="not text in UTF-8"):
            Signers.parse_toml(table(may=broken))


@pytest.mark.parametrize("number", ["9" * 5_000, "0x" + "f" * 5_000, "0b" + "1" * 20_000])
def test_a_number_that_is_too_long_to_print_is_refused(number: str) -> None:
    for field in ("name", "key", "may"):
        with pytest.raises(errors.ConfigurationError):
            Signers.parse_toml(table(**{field: number}))
