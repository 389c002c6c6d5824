"""Orders to a running lab, at a socket in its folder: one line of JSON in each direction.

>>> msgspec.json.encode(Order("cut", ["iad", "ams"]))
b'{"do":"cut","arguments":["iad","ams"]}'
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from tkdb import errors
from tkdb_ops.lab.folder import CONTROL
from tkdb_ops.lab.lab import Lab

_LINE_MAX: Final = 1 << 24
_ERRORS: Final = {kind.code: kind for kind in (errors.ConfigurationError, errors.Unavailable)}

What = Literal["status", "down", "exec", "cut", "isolate", "heal", "kill", "pause", "resume", "start"]


class Order(msgspec.Struct, frozen=True):
    """An order: the action, and the regions, machines or words that it applies to."""

    do: What
    arguments: list[str] = []


class Answer(msgspec.Struct, frozen=True):
    """The answer to an order: the ``result``, or the ``code``, message and hint of an error."""

    result: Any = None
    code: str = ""
    message: str = ""
    hint: str = ""


def ask(folder: Path, order: Order) -> Any:
    """Send an order to the lab in ``folder``, and return the result.

    Raises:
        Unavailable: no lab runs there, or the order can't be carried out now.
        ConfigurationError: the order names a region, a machine or an action that the lab doesn't have.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(folder / CONTROL))
            connection.sendall(msgspec.json.encode(order) + b"\n")
            with connection.makefile("rb") as lines:
                answer = msgspec.json.decode(lines.readline(), type=Answer)
        except (OSError, msgspec.DecodeError):
            raise errors.Unavailable(f"no lab answers in {folder}", hint="start one with `tkdb lab up`") from None
    if answer.code:
        raise _ERRORS.get(answer.code, errors.Unavailable)(answer.message, hint=answer.hint)
    return answer.result


class Control:
    """The server that takes orders for a lab while it is open. ``down`` is set once the lab is ordered to end."""

    def __init__(self, lab: Lab) -> None:
        self.down = asyncio.Event()
        self._lab = lab
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_unix_server(self._take, self._lab.folder / CONTROL, limit=_LINE_MAX)
        except OSError as error:
            raise errors.ConfigurationError(
                f"no socket can be made in {self._lab.folder}: {error}", hint="give a --folder with a shorter path"
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if line := await reader.readline():
                writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass  # The caller has disconnected, or the line is too long.
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> Answer:
        try:
            return Answer(await self._carry_out(msgspec.json.decode(line, type=Order)))
        except errors.TkdbError as error:
            return Answer(code=error.code, message=error.message, hint=error.hint)
        except msgspec.DecodeError as error:
            return Answer(code=errors.ConfigurationError.code, message=f"the lab can't read the order: {error}")

    async def _carry_out(self, order: Order) -> Any:
        lab = self._lab
        match order.do, order.arguments:
            case "status", []:
                exports, missing = lab.exports(), list(lab.flycast.not_emulated)
                return {"exports": exports, "not_emulated": missing, "machines": await lab.status()}
            case "down", []:
                self.down.set()
            case "exec", [region, *words] if words:
                return asdict(await lab.run(region, words))
            case "cut", [one, other]:
                await lab.flycast.backbone.cut(one, other)
            case "isolate", [region]:
                await lab.isolate(region)
            case "heal", []:
                await lab.heal()
            case ("kill" | "pause" | "resume" | "start") as change, [name]:
                await getattr(lab.machine(name), change)()
            case _:
                raise errors.ConfigurationError(
                    f"{order.do} takes other arguments", hint=f"see `tkdb lab {order.do} --help`"
                )
        return None
