"""The example of docs/flycast.md runs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from tests.ops.flycast.stand_in import ECHO

DOCS = Path(__file__).parents[3].joinpath("docs", "flycast.md").read_text()


def test_the_example_runs(isolating: None) -> None:
    found = re.search(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    assert found is not None
    code = found[1].replace('["tkdb", "serve"]', repr([sys.executable, "-I", "-S", str(ECHO)]))
    code = code.replace("TKDB_BIND", "BIND")
    names: dict[str, Any] = {"settings": {}}
    running = eval(compile(code, "docs/flycast.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # noqa: S307
    assert inspect.iscoroutine(running)
    asyncio.run(running)
    assert names["url"].startswith("http://127.0.0.1:")
