"""Fly's API gets the token that `fly tokens create` prints, and no network gets that token in the clear."""

from __future__ import annotations

import pytest

from tests.fake_fly import APP, TOKEN
from tkdb.errors import ConfigurationError
from tkdb_ops.fly_api import PUBLIC, VARIABLES, FlyApi, app_path


def test_a_token_of_the_older_kind_keeps_its_bearer_scheme() -> None:
    assert FlyApi.parse({}, "Bearer aaaaaaaaaaaa").authorization == "Bearer aaaaaaaaaaaa"
    assert FlyApi.parse({}, TOKEN + ",fo1_aaaa").authorization == f"FlyV1 {TOKEN},fo1_aaaa"


def test_the_repr_does_not_contain_the_token() -> None:
    assert TOKEN not in repr(FlyApi.parse({}, TOKEN))


@pytest.mark.parametrize("token", ["", "short", "two words of it", "fm2_with\nnewline-in-it", "fm2_\x00aaaaaaaaaa"])
def test_an_invalid_token_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="FLY_API_TOKEN isn't a token"):
        FlyApi.parse({}, token)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", PUBLIC),
        ("api.machines.dev", PUBLIC),
        ("http://_api.internal:4280", "http://_api.internal:4280"),
        ("http://127.0.0.1:4280", "http://127.0.0.1:4280"),
        ("http://[::1]:4280", "http://[::1]:4280"),
        ("http://localhost:4280", "http://localhost:4280"),
    ],
)
def test_either_variable_sets_the_api_url(variable: str, text: str, url: str) -> None:
    assert str(FlyApi.parse({variable: text}, TOKEN).url) == url


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("host", ["api.machines.dev", "10.0.0.1", "[fdaa::3]", "localhost.example.com"])
def test_a_token_is_never_sent_in_the_clear(variable: str, host: str) -> None:
    with pytest.raises(ConfigurationError, match="unencrypted"):
        FlyApi.parse({variable: f"http://{host}"}, TOKEN)


@pytest.mark.parametrize("app", ["", "../other", "a/b", "a?limit=1", "A", "-a", "a" * 64, TOKEN])
def test_an_invalid_app_name_is_refused(app: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be the name of an app"):
        app_path(app)
    assert app_path(APP) == f"/v1/apps/{APP}"
