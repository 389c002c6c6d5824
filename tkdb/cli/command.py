"""The decorator of every command: it adds groups of options and ``--json``, and turns errors into exit codes.

A parameter with a dataclass as its type becomes one option for each field, so commands share options by sharing the
class.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Final, get_type_hints

import typer

from tkdb.cli import dumps
from tkdb.cli.output import Output
from tkdb.errors import ConfigurationError, TkdbError
from tkdb.extras import install_hint

Function = Callable[..., None]

_JSON: Final = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def command(app: typer.Typer, name: str | None = None) -> Callable[[Function], Function]:
    """Return a decorator that makes a function a command of ``app``.

    The function is called with an ``Output`` first, and then with its parameters. If it raises a ``TkdbError``, the
    error is shown, and determines the exit code. Before it is called, dumps of this process are switched off: most
    commands read secrets.
    """

    def register(function: Function) -> Function:
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters)[1:]
        groups = {parameter: hints[parameter] for parameter in parameters if is_dataclass(hints[parameter])}

        @functools.wraps(function)
        def run(**values: Any) -> None:
            output = Output(json=values.pop("json"))
            for parameter, group in groups.items():
                values[parameter] = group(**{field.name: values.pop(field.name) for field in fields(group)})
            try:
                dumps.switch_off()
                function(output, **values)
            except TkdbError as error:
                raise typer.Exit(output.fail(error)) from None
            except ModuleNotFoundError as error:
                raise typer.Exit(output.fail(_missing(error))) from None

        flat = list(_flat(function, hints))
        run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
        app.command(name)(run)
        return function

    return register


def _flat(function: Function, hints: dict[str, Any]) -> Iterator[inspect.Parameter]:
    """Yield the parameters of the command line: the fields of a group in the group's place, and ``--json`` last."""
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        kind = hints[parameter.name]
        if not is_dataclass(kind):
            yield _parameter(parameter.name, kind, parameter.default)
            continue
        inner = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            default = field.default if field.default is not MISSING else inspect.Parameter.empty
            yield _parameter(field.name, inner[field.name], default)
    yield _parameter("json", _JSON, False)


def _missing(error: ModuleNotFoundError) -> ConfigurationError:
    """Return the error for a command whose dependencies, which only an extra has, aren't installed."""
    return ConfigurationError(f"this command needs {error.name}", hint=install_hint("server"))


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
