"""``tkdb lab``: a whole authority of several regions on this machine, to see it live through faults."""

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
from tkdb.cli.machines import seconds
from tkdb.cli.output import Cell, Marked, Output, Rows, bad, faint, good

if TYPE_CHECKING:
    from tkdb_ops.lab.control import What
    from tkdb_ops.lab.lab import Lab

app = typer.Typer(name="lab", help="Run a whole authority of several regions on this machine, and break it.")

_HEADER: Final = ("REGION", "MACHINE", "ROLE", "SEQ", "LAG", "FRESH", "REQUESTS", "SERVES", "HEALTH")
_SHOW_S: Final = 1.0

Folder = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Where the lab is; by default one a user, among the temporary files."),
]
Machine = Annotated[str, typer.Argument(metavar="MACHINE", help="The machine's name, or its region.")]
Region = Annotated[str, typer.Argument(metavar="REGION", help="The region, such as iad.")]
Other = Annotated[str, typer.Argument(metavar="OTHER", help="The other region.")]


@command(app)
def up(
    output: Output,
    regions: Annotated[str, typer.Option(metavar="REGIONS", help="Where machines are; the primary's first.")] = (
        "iad,ams,syd"
    ),
    clients: Annotated[str, typer.Option(metavar="REGIONS", help="Where callers are.")] = "sin",
    folder: Folder = None,
) -> None:
    """Start a lab, and run it until Ctrl-C.

    It prints what to export: the URL is the door of the first region of callers; on a terminal it shows its machines
    from then on. It makes its own object store and keys, keeps nothing, and is never for production. Regions have their
    true distances where it runs as root.

    \b
    $ tkdb lab up
    export TKDB_URL=http://127.0.0.1:40123
    export TKDB_AUTHORITY=tkdb.lab=tkdbpub_…
    export TKDB_SIGNER_FILE=/tmp/tkdb-lab-1000/signer.key
    """
    from tkdb_ops.lab.folder import claimed

    with claimed(_folder(folder)) as here:
        asyncio.run(_run(output, here, _codes(regions), _codes(clients)))
    output.note(faint("the lab has ended, and nothing of it is left"))


@command(app)
def status(output: Output, folder: Folder = None) -> None:
    """Show how each machine of the lab is, and whom it serves.

    Each is asked itself, past proxies and cuts. REQUESTS are those that its proxy has sent to it, SERVES the callers'
    regions whose proxies send theirs to it now. Exit 3: no lab runs.

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
    """End the lab.

    \b
    $ tkdb lab down
    the lab ends
    """
    _changed(output, folder, "down", said="the lab ends")


@command(app, "exec")
def execute(
    output: Output,
    region: Region,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The program, and its arguments.")],
    folder: Folder = None,
) -> None:
    """Run a program as a caller in a region.

    The region is one of `tkdb lab up --clients`. It finds the authority as an app there would, by
    its variables. What it says comes once it has ended, and its exit code is the command's.

    \b
    $ tkdb lab exec sin -- tkdb status
    """
    done = _ordered(folder, "exec", region, *words)
    output.result(done, done["output"].rstrip("\n"))
    if code := done["code"]:
        raise typer.Exit(code if code > 0 else 128 - code)


@command(app)
def cut(output: Output, region: Region, other: Other, folder: Folder = None) -> None:
    """Lose every packet between two regions.

    \b
    $ tkdb lab cut iad ams
    iad and ams are cut off from each other
    """
    _changed(output, folder, "cut", region, other, said=f"{region} and {other} are cut off from each other")


@command(app)
def isolate(output: Output, region: Region, folder: Folder = None) -> None:
    """Lose every packet to and from a region.

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
    every region reaches every other
    """
    _changed(output, folder, "heal", said="every region reaches every other")


@command(app)
def kill(output: Output, machine: Machine, folder: Folder = None) -> None:
    """Kill a machine: SIGKILL to all that it runs.

    \b
    $ tkdb lab kill syd
    syd is killed
    """
    _changed(output, folder, "kill", machine, said=f"{machine} is killed")


@command(app)
def start(output: Output, machine: Machine, folder: Folder = None) -> None:
    """Start a machine that was killed, with its volume as it was left.

    \b
    $ tkdb lab start syd
    syd is started
    """
    _changed(output, folder, "start", machine, said=f"{machine} is started")


@command(app)
def pause(output: Output, machine: Machine, folder: Folder = None) -> None:
    """Have a machine hang: it accepts connections, and answers nothing.

    \b
    $ tkdb lab pause syd
    syd hangs
    """
    _changed(output, folder, "pause", machine, said=f"{machine} hangs")


@command(app)
def resume(output: Output, machine: Machine, folder: Folder = None) -> None:
    """Let a machine go on that hangs.

    \b
    $ tkdb lab resume syd
    syd goes on
    """
    _changed(output, folder, "resume", machine, said=f"{machine} goes on")


async def _run(output: Output, folder: Path, regions: tuple[str, ...], clients: tuple[str, ...]) -> None:
    from tkdb_ops.lab.control import Control
    from tkdb_ops.lab.lab import Lab

    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None  # noqa: S101  a coroutine runs in one
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, running.cancel)

    def progress(what: str) -> None:
        output.note(faint(f"up: {what}"))

    try:
        async with Lab(folder, regions, clients, progress=progress) as lab, Control(lab) as control:
            _ready(output, lab)
            await _watch(output, lab, control.down)
    except asyncio.CancelledError:
        return  # the orderly end
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_IGN)  # it is ending already


async def _watch(output: Output, lab: Lab, down: asyncio.Event) -> None:
    """Wait until the lab is to end; on a terminal, show its machines meanwhile."""
    with output.live() as show:
        while show is not None and not down.is_set():
            show(Rows([_row(msgspec.to_builtins(each)) for each in await lab.status()], header=_HEADER))
            with suppress(TimeoutError):
                await asyncio.wait_for(down.wait(), _SHOW_S)
        await down.wait()


def _ready(output: Output, lab: Lab) -> None:
    exports = lab.exports()
    output.result(exports, *(f"export {name}={value}" for name, value in exports.items()))
    output.note(bad("NOT FOR PRODUCTION: nothing is kept; whoever reads its folder may do anything"))
    for missing in lab.flycast.not_emulated:
        output.note(faint(f"not emulated here: {missing}"))
    output.note(faint("in another terminal: tkdb lab status · Ctrl-C ends it"))


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
        Marked(machine["role"], "bold") if machine["role"] == "primary" else machine["role"],
        "" if machine["seq"] is None else str(machine["seq"]),
        "" if machine["lag"] is None else str(machine["lag"]),
        "" if age_ms is None else seconds(age_ms),
        "" if machine["requests"] is None else str(machine["requests"]),
        " ".join(machine["serves"]),
        good(health) if health == "ok" else bad(" ".join(filter(None, (health, machine["fault"])))),
    )
