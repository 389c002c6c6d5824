"""The keeper of a lab's namespaces, which forks each machine that runs `tkdb serve` instead of starting an interpreter.

`tests.forks.popen` starts it in place of `tkdb_ops.flycast.namespace_init`. All orders, namespaces and signals are the
product's; only the last step of a new process, exec(2), is replaced for command lines that `child.is_known` accepts.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.forks import child
from tkdb_ops.flycast import namespace_init


class ForkingKeeper(namespace_init.NamespaceInit):
    """The product's keeper, with everything imported before the first machine starts."""

    profile: str
    _is_loaded = False

    def _spawn(self, order: dict[str, Any]) -> Any:
        if not self._is_loaded and child.is_known(order["arguments"]):
            child.preload(self.profile)
            self._is_loaded = True
        return super()._spawn(order)


def execute(program: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Become a program: by exec(2), unless this process has imported it."""
    if child.is_known(arguments):
        child.become(arguments, environment)
    os.execvpe(program, arguments, environment)  # noqa: S606  what it is for


class System:
    """The module `os`, as the keeper sees it."""

    execvpe = staticmethod(execute)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


if __name__ == "__main__":
    ForkingKeeper.profile = sys.argv[2]
    vars(namespace_init).update(NamespaceInit=ForkingKeeper, os=System())
    namespace_init.main(int(sys.argv[1]))
