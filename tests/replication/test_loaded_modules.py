"""The process that holds the root keys loads no client, no tools and no web framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORBIDDEN = ("tkdb_client", "tkdb_ops", "starlette", "hypercorn")
"""Top-level packages that an authority's process must not load together with its root keys."""


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages that a new process loads for ``import module``."""
    return {name.partition(".")[0] for name in modules_loaded_by(module)}


def modules_loaded_by(module: str) -> set[str]:
    """Return the modules that a new process loads for ``import module``."""
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_a_node_loads_no_client_no_tools_and_no_web_framework() -> None:
    loaded = loaded_by("tkdb_replication.node.node")
    assert "tkdb_replication" in loaded
    assert loaded.isdisjoint(FORBIDDEN)


@pytest.mark.parametrize(("module", "package"), [("tkdb.server.run", "hypercorn"), ("tkdb_ops.lab.lab", "tkdb_client")])
def test_the_check_finds_a_module_that_loads_a_forbidden_package(module: str, package: str) -> None:
    assert package in loaded_by(module)


def test_serve_never_loads_the_plain_json_service() -> None:
    loaded = modules_loaded_by("tkdb.server.run, tkdb.cli.serve, tkdb_replication.node.node")
    assert "tkdb.server.app" in loaded
    assert not {name for name in loaded if name.startswith("tkdb.dev")}
    assert "tkdb.dev.plain" in modules_loaded_by("tkdb.dev.routes")
