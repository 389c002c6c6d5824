"""``tkdb lab``: a whole multi-region authority on this machine, for experiments with faults."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from tkdb.cli.command import command
from tkdb.cli.machines import role_cell, seconds
from tkdb.cli.output import Cell, Output, Rows, bad, faint, good

if TYPE_CHECKING:
    from tkdb_ops.lab.control import What
    from tkdb_ops.lab.lab import Lab

app = typer.Typer(name="lab", help="Run a whole multi-region authority on this machine, and inject faults.")

_HEADER: Final = ("REGION", "MACHINE", "ROLE", "SEQ", "LAG", "FRESH", "REQUESTS", "SERVES", "HEALTH")
_SHOW_S: Final = 1.0

Folder = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="The folder of the lab. Default: one for each user, among the temporary files."),
]
Machine = Annotated[str, typer.Argument(metavar="MACHINE", help="The name of the machine, or its region.")]
Region = Annotated[str, typer.Argument(metavar="REGION", help="The region, such as iad.")]
Other = Annotated[str, typer.Argument(metavar="OTHER", help="The other region.")]


@command(app)
def up(
    output: Output,
    regions: Annotated[str, typer.Option(metavar="REGIONS", help="The machines' regions, the primary's first.")] = (
        "iad,ams,syd"
    ),
    clients: Annotated[str, typer.Option(metavar="REGIONS", help="The callers' regions.")] = "sin",
    folder: Folder = None,
) -> None:
    """Start a lab, and run it until Ctrl-C.

    It prints the variables to export. The URL is the entry point of the callers' first region. On a terminal, it then
    shows its machines. It makes its own object store and keys, keeps nothing, and is never for production. If it runs
    as root, the regions have their true distances.

    \b
    $ tkdb lab up
    export TKDB_URL=http://127.0.0.1:40123
    export TKDB_AUTHORITY=tkdb.lab=tkdbpub_…
    export TKDB_SIGNER_FILE=/tmp/tkdb-lab-1000/signer.key
    """
    from tkdb_ops.lab.folder import claimed

    with claimed(_folder(folder)) as here:
        asyncio.run(_run(output, here, _codes(regions), _codes(clients)))
    output.note(faint("the lab has stopped, and nothing of it is left"))


@command(app)
def status(output: Output, folder: Folder = None) -> None:
    """Show the state of each machine of the lab, and the regions that it serves.

    Each machine is asked directly, past proxies and cuts. REQUESTS counts the requests that its proxy has sent to it.
    SERVES lists the callers' regions whose proxies send their requests to it now. Exit 3: no lab runs.

    \b
    $ tkdb lab status
    REGION  MACHINE     ROLE     SEQ  LAG  FRESH  REQUESTS  SERVES  HEALTH
    iad     tkdb-iad-1  primary  1    0    0.2 s  12                ok
    syd     tkdb-syd-1  replica  1    0    0.1 s  340       sin     ok
    """
    found = _ordered(folder, "status")
    output.result(found, Rows(map(_row, found["machines"]), header=_HEADER))


@command(app)
def down(output: Output, folder: Folder = None) -> None:
    """Stop the lab.

    \b
    $ tkdb lab down
    the lab stops
    """
    _changed(output, folder, "down", said="the lab stops")


@command(app, "exec")
def execute(
    output: Output,
    region: Region,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The program, and its arguments.")],
    folder: Folder = None,
) -> None:
    """Run a program as a caller in a region.

    The region is one of `tkdb lab up --clients`. The program gets the variables that an app there has, and finds the
    authority by them. Its output appears after it has ended, and its exit code is the exit code of this command.

    \b
    $ tkdb lab exec sin -- tkdb status
    """
    done = _ordered(folder, "exec", region, *words)
    output.result(done, done["output"].rstrip("\n"))
    if code := done["code"]:
        raise typer.Exit(code if code > 0 else 128 - code)


@command(app)
def cut(output: Output, region: Region, other: Other, folder: Folder = None) -> None:
    """Drop every packet between two regions.

    \b
    $ tkdb lab cut iad ams
    iad and ams are cut off from each other
    """
    _changed(output, folder, "cut", region, other, said=f"{region} and {other} are cut off from each other")


@command(app)
def isolate(output: Output, region: Region, folder: Folder = None) -> None:
    """Drop every packet to and from a region.

    \b
    $ tkdb lab isolate syd
    syd is cut off from all others
    """
    _changed(output, folder, "isolate", region, said=f"{region} is cut off from all others")


@command(app)
def heal(output: Output, folder: Folder = None) -> None:
    """End all cuts and isolations.

    \b
    $ tkdb lab heal
    every region reaches all others
    """
    _changed(output, folder, "heal", said="every region reaches all others")


@command(app)
def kill(output: Output, machine: Machine, folder: Folder = None) -> None:
    """Kill a machine: send SIGKILL to all of its processes.

    \b
    $ tkdb lab kill syd
    syd is killed
    """
    _changed(output, folder, "kill", machine, said=f"{machine} is killed")


@command(app)
def start(output: Output, machine: Machine, folder: Folder = None) -> None:
    """Start a killed machine, with its volume unchanged.

    \b
    $ tkdb lab start syd
    syd is started
    """
    _changed(output, folder, "start", machine, said=f"{machine} is started")


@command(app)
def pause(output: Output, machine: Machine, folder: Folder = None) -> None:
    """Make a machine hang: it accepts connections, but answers nothing.

    \b
    $ tkdb lab pause syd
    syd hangs
    """
    _changed(output, folder, "pause", machine, said=f"{machine} hangs")


@command(app)
def resume(output: Output, machine: Machine, folder: Folder = None) -> None:
    """Let a hanging machine continue.

    \b
    $ tkdb lab resume syd
    syd continues
    """
    _changed(output, folder, "resume", machine, said=f"{machine} continues")


async def _run(output: Output, folder: Path, regions: tuple[str, ...], clients: tuple[str, ...]) -> None:
    from tkdb_ops.lab.control import Control
    from tkdb_ops.lab.lab import Lab

    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None  # noqa: S101  a coroutine runs in a task
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, running.cancel)

    def progress(what: str) -> None:
        output.note(faint(f"up: {what}"))

    try:
        async with Lab(folder, regions, clients, progress=progress) as lab, Control(lab) as control:
            _ready(output, lab)
            await _watch(output, lab, control.down)
    except asyncio.CancelledError:
        return  # a signal asked for this end
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_IGN)  # the lab is already stopping


async def _watch(output: Output, lab: Lab, down: asyncio.Event) -> None:
    """Wait for the order to stop the lab. On a terminal, show its machines until then."""
    with output.live() as show:
        while show is not None and not down.is_set():
            show(Rows([_row(msgspec.to_builtins(each)) for each in await lab.status()], header=_HEADER))
            with suppress(TimeoutError):
                await asyncio.wait_for(down.wait(), _SHOW_S)
        await down.wait()


def _ready(output: Output, lab: Lab) -> None:
    exports = lab.exports()
    output.result(exports, *(f"export {name}={value}" for name, value in exports.items()))
    output.note(bad("NOT FOR PRODUCTION: nothing is kept, and anyone who can read its folder may do anything"))
    for missing in lab.flycast.not_emulated:
        output.note(faint(f"not emulated here: {missing}"))
    output.note(faint("in another terminal: tkdb lab status · Ctrl-C stops it"))


def _folder(given: Path | None) -> Path:
    from tkdb_ops.lab.folder import default_folder

    return (given or default_folder()).absolute()


def _codes(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (each.strip() for each in text.split(","))))


def _ordered(folder: Path | None, what: What, *arguments: str) -> Any:
    from tkdb_ops.lab.control import Order, ask

    return ask(_folder(folder), Order(what, list(arguments)))


def _changed(output: Output, folder: Path | None, what: What, *arguments: str, said: str) -> None:
    _ordered(folder, what, *arguments)
    output.result({"done": what, "to": arguments}, good(said))


def _row(machine: dict[str, Any]) -> Sequence[Cell]:
    age_ms = machine["age_ms"]
    health = machine["health"]
    return (
        machine["region"],
        machine["machine"],
        "" if not machine["role"] else role_cell(machine["role"] if machine["is_current"] else ""),
        "" if machine["seq"] is None else str(machine["seq"]),
        "" if machine["lag"] is None else str(machine["lag"]),
        "" if age_ms is None else seconds(age_ms),
        "" if machine["requests"] is None else str(machine["requests"]),
        " ".join(machine["serves"]),
        good(health) if health == "ok" else bad(" ".join(filter(None, (health, machine["fault"])))),
    )
