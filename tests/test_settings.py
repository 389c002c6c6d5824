"""The settings: all problems are reported together, and no message contains a secret."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkdb import errors
from tkdb.channel.keys import AuthoritySecret, SignerSecret
from tkdb.journal.seal import SealKey
from tkdb.settings import CLIENT_VARIABLES, SETTINGS, Address, Settings

AUTHORITY = AuthoritySecret.generate(os.urandom)
SEAL = SealKey(os.urandom(32))
SIGNERS = f"""
[[signer]]
name = "api"
key = "{SignerSecret.generate(os.urandom).public.text()}"
organizations = ["*"]
may = ["mint"]
"""
MINIMUM = {
    "TKDB_NAME": "tkdb.example",
    "TKDB_AUTHORITY_KEY": AUTHORITY.text(),
    "TKDB_SEAL_KEYS": SEAL.text(),
    "TKDB_SIGNERS": SIGNERS,
    "TKDB_DB": "/data/tkdb.db",
}
DOCUMENT = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()


def test_the_smallest_configuration_has_safe_defaults() -> None:
    settings = Settings.parse({**MINIMUM, "HOME": "/root", "PATH": "/bin"})
    assert settings.name == "tkdb.example"
    assert settings.authority_keys[0].public == AUTHORITY.public
    assert settings.database == Path("/data/tkdb.db")
    assert str(settings.bind) == "0.0.0.0:8080"
    assert (settings.max_lifetime_s, settings.drain_ms, settings.max_concurrency) == (90 * 86_400, 4_500, 256)
    assert (settings.log_level, settings.region, settings.machine) == ("info", "local", "local")


def test_the_table_and_the_class_have_the_same_defaults() -> None:
    by_class = Settings(*(Settings.parse(MINIMUM).__getattribute__(name) for name in Settings.__match_args__[:6]))
    assert repr(by_class) == repr(Settings.parse(MINIMUM))


def test_the_platform_names_region_and_machine_unless_the_settings_do() -> None:
    platform = {**MINIMUM, "FLY_REGION": "iad", "FLY_MACHINE_ID": "m-1a2b"}
    assert (Settings.parse(platform).region, Settings.parse(platform).machine) == ("iad", "m-1a2b")
    assert Settings.parse({**platform, "TKDB_REGION": "syd"}).region == "syd"


def test_attestation_is_off_by_default_and_lists_accept_only_possible_names() -> None:
    assert not Settings.parse(MINIMUM).fly_src_required
    lists = {"TKDB_FLY_SRC_APPS": "web, api", "TKDB_FLY_SRC_ORGS": "acme"}
    settings = Settings.parse({**MINIMUM, "TKDB_FLY_SRC": "require", **lists, "FLYCAST_SRC_KEY_FILE": "/lab/key"})
    assert (settings.fly_src_required, settings.fly_src_apps, settings.fly_src_orgs) == (
        True,
        ("web", "api"),
        ("acme",),
    )
    assert settings.fly_src_key_file == Path("/lab/key")
    for variable, wrong in (
        ("TKDB_FLY_SRC", "on"),
        ("TKDB_FLY_SRC_APPS", "web,"),
        ("TKDB_FLY_SRC_ORGS", "acme.example"),
    ):
        with pytest.raises(errors.ConfigurationError, match=variable):
            Settings.parse({**MINIMUM, variable: wrong})


def test_at_most_two_different_authority_keys_are_accepted() -> None:
    keys = [AuthoritySecret.generate(os.urandom) for _ in range(3)]
    two = Settings.parse({**MINIMUM, "TKDB_AUTHORITY_KEY": f"{keys[0].text()}, {keys[1].text()}"})
    assert [key.public for key in two.authority_keys] == [keys[0].public, keys[1].public]
    for wrong in (keys, [keys[0], keys[0]]):
        with pytest.raises(errors.ConfigurationError, match="TKDB_AUTHORITY_KEY"):
            Settings.parse({**MINIMUM, "TKDB_AUTHORITY_KEY": ",".join(key.text() for key in wrong)})


def test_every_problem_is_reported_together() -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        Settings.parse(
            {
                "TKDB_NAME": "no spaces allowed",
                "TKDB_SEAL_KEYS": "tkdbseal_x",
                "TKDB_SIGNERS": "[[",
                "TKDB_BIND": "localhost:8080",
                "TKDB_DRAIN_MS": "soon",
                "TKDB_LOG_LEVEL": "loud",
                "TKDB_MAX_CONCURRENCY": "0",
                "TKDB_SIGNER_KEYS": "x",
            }
        )
    text = str(caught.value)
    assert text.startswith("10 settings are wrong\n")
    for variable in ("NAME", "AUTHORITY_KEY", "SEAL_KEYS", "SIGNERS", "DB", "BIND", "DRAIN_MS", "LOG_LEVEL"):
        assert f"\n  TKDB_{variable}: " in text


@pytest.mark.parametrize(
    ("misspelled", "nearest"),
    [("TKDB_SEAL_KEY", "TKDB_SEAL_KEYS"), ("TKDB_DRAIN", "TKDB_DRAIN_MS"), ("TKDB_NAME_FIEL", "TKDB_NAME_FILE")],
)
def test_an_unknown_setting_is_an_error_that_suggests_the_nearest(misspelled: str, nearest: str) -> None:
    message = f"{misspelled}: there is no such setting; did you mean {nearest}"
    with pytest.raises(errors.ConfigurationError, match=message):
        Settings.parse({**MINIMUM, misspelled: "x"})
    with pytest.raises(errors.ConfigurationError, match="there is no such setting\n"):
        Settings.parse({**MINIMUM, "TKDB_QQQQQQQQ": "x"})


def test_the_clients_variables_are_accepted() -> None:
    assert Settings.parse({**MINIMUM, **dict.fromkeys(CLIENT_VARIABLES, "x")}).name == "tkdb.example"


def test_a_value_can_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "seal"
    secret.write_text(SEAL.text() + "\n")
    environment = {**MINIMUM, "TKDB_SEAL_KEYS_FILE": str(secret)}
    del environment["TKDB_SEAL_KEYS"]
    assert Settings.parse(environment).name == "tkdb.example"
    with pytest.raises(errors.ConfigurationError, match="TKDB_SEAL_KEYS_FILE is set too"):
        Settings.parse({**environment, "TKDB_SEAL_KEYS": SEAL.text()})


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="TKDB_DB: the path of a file"):
        Settings.parse({**MINIMUM, "TKDB_DB": ":memory:"})


def test_an_unreadable_file_is_an_error_with_its_cause(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path, cause in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (binary, "UTF-8")):
        environment = {name: value for name, value in MINIMUM.items() if name != "TKDB_DB"}
        with pytest.raises(errors.ConfigurationError, match=cause):
            Settings.parse({**environment, "TKDB_DB_FILE": str(path)})


def test_no_error_and_no_repr_contains_a_secret() -> None:
    cut = {
        **MINIMUM,
        "TKDB_AUTHORITY_KEY": AUTHORITY.text()[:-3],
        "TKDB_SEAL_KEYS": SEAL.text() + "," + SEAL.text()[:-3],
    }
    swapped = {**MINIMUM, "TKDB_AUTHORITY_KEY": SEAL.text(), "TKDB_SEAL_KEYS": AUTHORITY.text()}
    for environment in (cut, swapped):
        with pytest.raises(errors.ConfigurationError) as caught:
            Settings.parse(environment)
        for secret in (AUTHORITY.text(), SEAL.text()):
            assert secret[12:40] not in str(caught.value)
    shown = repr(Settings.parse(MINIMUM))
    assert AUTHORITY.text()[12:40] not in shown
    assert SEAL.text()[12:40] not in shown


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "127.0.0.1:", ":8080", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80", "[127.0.0.1]:80", "x:1"]
)
def test_an_address_has_one_form(text: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="an address and a port"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("0.0.0.0:1", False), ("[::]:1", False)],
)
def test_loopback_addresses_are_recognized(text: str, loopback: bool) -> None:
    assert Address.parse(text).loopback is loopback
    assert str(Address.parse(text)) == text


@given(st.sampled_from([setting.variable for setting in SETTINGS]), st.text(max_size=50))
def test_any_value_is_read_or_raises_an_error_with_its_variable(variable: str, text: str) -> None:
    try:
        assert Settings.parse({**MINIMUM, variable: text}).name
    except errors.ConfigurationError as error:
        assert variable in error.message  # noqa: PT017  both outcomes are correct


def test_every_setting_is_documented_with_its_default_and_its_description() -> None:
    rows = re.findall(r"^\| `(TKDB_\w+)` \| (.*?) \| (.*?) \|$", DOCUMENT, flags=re.MULTILINE)
    expected = [
        (setting.variable, "required" if setting.default is None else f"`{setting.default}`", setting.description)
        for setting in SETTINGS
    ]
    assert [tuple(row) for row in rows] == expected


def test_the_documented_list_of_signers_is_valid() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert len(Settings.parse({**MINIMUM, "TKDB_SIGNERS": example}).signers) == 2
