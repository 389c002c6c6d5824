"""Each package's docstring lists its modules, so that a reader of the folder finds a file's neighbours there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "tkdb", ROOT / "client" / "tkdb_client", ROOT / "replication")
PACKAGES = sorted(path.parent for source in SOURCES for path in source.rglob("__init__.py"))
APPS_SEE = {"tkdb_client"}
"""Its docstring is the beginning of what apps read; ARCHITECTURE.md has its modules."""


def modules_of(package: Path) -> set[str]:
    """Return the names of a package's modules and packages."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    return modules | {path.parent.name for path in package.glob("*/__init__.py")}


def listed_in(package: Path) -> set[str]:
    """Return the names that the package's docstring lists, one at the beginning of a line."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return set(re.findall(r"^``(?:[\w.]+\.)?(\w+)``", docstring, re.MULTILINE))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_package_lists_exactly_its_modules(package: Path) -> None:
    if package.name not in APPS_SEE:
        assert listed_in(package) == modules_of(package)


def test_a_missing_module_is_found(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text('"""A package.\n\n``one``  the first\n"""\n')
    (tmp_path / "one.py").touch()
    assert listed_in(tmp_path) == modules_of(tmp_path)
    (tmp_path / "two.py").touch()
    assert listed_in(tmp_path) != modules_of(tmp_path)
