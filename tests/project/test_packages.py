"""Each package's docstring lists exactly the package's modules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "tkdb", ROOT / "client" / "tkdb_client", ROOT / "replication")
PACKAGES = sorted(path.parent for source in SOURCES for path in source.rglob("__init__.py"))
FOR_APPS = {"tkdb_client"}
"""The packages whose docstring is documentation for apps. It doesn't list the modules."""


def modules_of(package: Path) -> set[str]:
    """Return the names of a package's modules and packages."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    return modules | {path.parent.name for path in package.glob("*/__init__.py")}


def listed_in(package: Path) -> set[str]:
    """Return the names in the list of the package's docstring, where each line begins with a name."""
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return set(re.findall(r"^``(?:[\w.]+\.)?(\w+)``", docstring, re.MULTILINE))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_package_lists_exactly_its_modules(package: Path) -> None:
    if package.name not in FOR_APPS:
        assert listed_in(package) == modules_of(package)


def test_a_missing_module_is_detected(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text('"""A package.\n\n``one``  the first\n"""\n')
    (tmp_path / "one.py").touch()
    assert listed_in(tmp_path) == modules_of(tmp_path)
    (tmp_path / "two.py").touch()
    assert listed_in(tmp_path) != modules_of(tmp_path)
