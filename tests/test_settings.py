"""The configuration: all that is wrong at once, and no secret repeated."""

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
LEAST = {
    "TKDB_NAME": "tkdb.example",
    "TKDB_AUTHORITY_KEY": AUTHORITY.text(),
    "TKDB_SEAL_KEYS": SEAL.text(),
    "TKDB_SIGNERS": SIGNERS,
    "TKDB_DB": "/data/tkdb.db",
}
DOCUMENT = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()


def test_the_least_configuration_has_safe_defaults() -> None:
    settings = Settings.parse({**LEAST, "HOME": "/root", "PATH": "/bin"})
    assert settings.name == "tkdb.example"
    assert settings.authority_keys[0].public == AUTHORITY.public
    assert settings.database == Path("/data/tkdb.db")
    assert str(settings.bind) == "0.0.0.0:8080"
    assert (settings.max_lifetime_s, settings.drain_ms, settings.max_concurrency) == (90 * 86_400, 4_500, 256)
    assert (settings.log_level, settings.region, settings.machine) == ("info", "local", "local")


def test_the_defaults_of_the_table_and_of_the_class_are_the_same() -> None:
    by_class = Settings(*(Settings.parse(LEAST).__getattribute__(name) for name in Settings.__match_args__[:6]))
    assert repr(by_class) == repr(Settings.parse(LEAST))


def test_the_platform_names_region_and_machine_unless_the_settings_do() -> None:
    platform = {**LEAST, "FLY_REGION": "iad", "FLY_MACHINE_ID": "m-1a2b"}
    assert (Settings.parse(platform).region, Settings.parse(platform).machine) == ("iad", "m-1a2b")
    assert Settings.parse({**platform, "TKDB_REGION": "syd"}).region == "syd"


def test_attestation_is_off_by_default_and_lists_take_only_names_that_can_occur() -> None:
    assert not Settings.parse(LEAST).fly_src_required
    lists = {"TKDB_FLY_SRC_APPS": "web, api", "TKDB_FLY_SRC_ORGS": "acme"}
    settings = Settings.parse({**LEAST, "TKDB_FLY_SRC": "require", **lists, "FLYCAST_SRC_KEY_FILE": "/lab/key"})
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
            Settings.parse({**LEAST, variable: wrong})


def test_two_authority_keys_while_one_is_rotated_and_no_more() -> None:
    keys = [AuthoritySecret.generate(os.urandom) for _ in range(3)]
    two = Settings.parse({**LEAST, "TKDB_AUTHORITY_KEY": f"{keys[0].text()}, {keys[1].text()}"})
    assert [key.public for key in two.authority_keys] == [keys[0].public, keys[1].public]
    for wrong in (keys, [keys[0], keys[0]]):
        with pytest.raises(errors.ConfigurationError, match="TKDB_AUTHORITY_KEY"):
            Settings.parse({**LEAST, "TKDB_AUTHORITY_KEY": ",".join(key.text() for key in wrong)})


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
    ("typed", "meant"),
    [("TKDB_SEAL_KEY", "TKDB_SEAL_KEYS"), ("TKDB_DRAIN", "TKDB_DRAIN_MS"), ("TKDB_NAME_FIEL", "TKDB_NAME_FILE")],
)
def test_an_unknown_setting_is_an_error_that_names_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"{typed}: there is no such setting; did you mean {meant}"):
        Settings.parse({**LEAST, typed: "x"})
    with pytest.raises(errors.ConfigurationError, match="there is no such setting\n"):
        Settings.parse({**LEAST, "TKDB_QQQQQQQQ": "x"})


def test_what_the_client_reads_is_no_mistake() -> None:
    assert Settings.parse({**LEAST, **dict.fromkeys(CLIENT_VARIABLES, "x")}).name == "tkdb.example"


def test_a_value_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "seal"
    secret.write_text(SEAL.text() + "\n")
    environment = {**LEAST, "TKDB_SEAL_KEYS_FILE": str(secret)}
    del environment["TKDB_SEAL_KEYS"]
    assert Settings.parse(environment).name == "tkdb.example"
    with pytest.raises(errors.ConfigurationError, match="TKDB_SEAL_KEYS_FILE is set too"):
        Settings.parse({**environment, "TKDB_SEAL_KEYS": SEAL.text()})


def test_an_authority_that_forgets_everything_can_not_be_configured() -> None:
    with pytest.raises(errors.ConfigurationError, match="TKDB_DB: the path of a file"):
        Settings.parse({**LEAST, "TKDB_DB": ":memory:"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path, cause in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory"), (binary, "UTF-8")):
        environment = {name: value for name, value in LEAST.items() if name != "TKDB_DB"}
        with pytest.raises(errors.ConfigurationError, match=cause):
            Settings.parse({**environment, "TKDB_DB_FILE": str(path)})


def test_no_secret_is_ever_repeated() -> None:
    cut = {**LEAST, "TKDB_AUTHORITY_KEY": AUTHORITY.text()[:-3], "TKDB_SEAL_KEYS": SEAL.text() + "," + SEAL.text()[:-3]}
    swapped = {**LEAST, "TKDB_AUTHORITY_KEY": SEAL.text(), "TKDB_SEAL_KEYS": AUTHORITY.text()}
    for environment in (cut, swapped):
        with pytest.raises(errors.ConfigurationError) as caught:
            Settings.parse(environment)
        for secret in (AUTHORITY.text(), SEAL.text()):
            assert secret[12:40] not in str(caught.value)
    shown = repr(Settings.parse(LEAST))
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
def test_what_is_loopback(text: str, loopback: bool) -> None:
    assert Address.parse(text).loopback is loopback
    assert str(Address.parse(text)) == text


@given(st.sampled_from([setting.variable for setting in SETTINGS]), st.text(max_size=50))
def test_any_value_is_read_or_one_error(variable: str, text: str) -> None:
    try:
        assert Settings.parse({**LEAST, variable: text}).name
    except errors.ConfigurationError as error:
        assert variable in error.message  # noqa: PT017  either outcome is right


def test_every_setting_is_documented_with_its_default_and_its_line() -> None:
    rows = re.findall(r"^\| `(TKDB_\w+)` \| (.*?) \| (.*?) \|$", DOCUMENT, flags=re.MULTILINE)
    expected = [
        (setting.variable, "required" if setting.default is None else f"`{setting.default}`", setting.description)
        for setting in SETTINGS
    ]
    assert [tuple(row) for row in rows] == expected


def test_the_documented_list_of_signers_is_one() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert len(Settings.parse({**LEAST, "TKDB_SIGNERS": example}).signers) == 2
