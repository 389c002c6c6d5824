"""A lab's namespace init that forks each `tkdb serve`, instead of starting an interpreter for it.

`tests.forks.popen` starts this instead of `tkdb_ops.flycast.namespace_init`. It is the product's code, with one change:
for command lines that `child.is_known` accepts, the last step of a new process, exec(2), is replaced.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.forks import child
from tkdb_ops.flycast import namespace_init


class ForkingInit(namespace_init.NamespaceInit):
    """The product's namespace init, which imports everything before the first machine starts."""

    profile: str
    _is_loaded = False

    def _spawn(self, order: dict[str, Any]) -> Any:
        if not self._is_loaded and child.is_known(order["arguments"]):
            child.preload(self.profile)
            self._is_loaded = True
        return super()._spawn(order)


def execute(program: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Become a program: without exec(2) if this process has imported the program, otherwise by exec(2)."""
    if child.is_known(arguments):
        child.become(arguments, environment)
    os.execvpe(program, arguments, environment)  # noqa: S606  this is its purpose


class System:
    """The module `os` with another `execvpe`, for the namespace init."""

    execvpe = staticmethod(execute)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


if __name__ == "__main__":
    ForkingInit.profile = sys.argv[2]
    vars(namespace_init).update(NamespaceInit=ForkingInit, os=System())
    namespace_init.main(int(sys.argv[1]))
