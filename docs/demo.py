"""The demo: one node, its client and its command line, all real, on this machine, in a few seconds.

    python docs/demo.py

It starts ``tkdb serve`` on a free port of 127.0.0.1 with a database in a temporary folder, lives through one token's
life, restarts the node, audits the journal, and leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from tkdb_client import Access, Client, Denied, Macaroon

NAME: Final = "tkdb.example"
TKDB: Final = (sys.executable, "-m", "tkdb.cli")
STOP_S: Final = 20

T = TypeVar("T")


def main() -> int:
    """Run the demo; return its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="tkdb-demo-") as folder:
            began = time.perf_counter()
            play(Path(folder))
            say("done", f"in {time.perf_counter() - began:.1f} s; nothing is left running")
    except KeyboardInterrupt:
        say("stopped", "nothing is left running")
        return 130
    return 0


def play(folder: Path) -> None:
    """Live through one token's life."""
    environment = configured(folder)
    with serving(environment) as (client, _):
        token = make(client)
        child = use(client, token)
        end(client, token, child)
    with serving(environment) as (client, started_ms):
        say("restart", f"the node is back on the same database, ready in {started_ms:.0f} ms")
        denied("verify", f"the authority, after its restart: {still_dead(client, child)}")
        say("status", f"{client.status().name}, {client.status().role}")
    report = json.loads(tkdb("audit", "verify", "--json", environment=environment))
    say("audit", f"{report['entries']} entries, {report['signed']} signatures checked: the journal is whole")


def make(client: Client) -> Macaroon:
    """Create an organization, and mint a token."""
    organization, took = timed(lambda: client.create_organization("acme"))
    say("create", f"organization {organization.name}, its root key {organization.keys[0].kid.hex()[:12]}…", took)
    token, took = timed(lambda: client.mint("acme", act="rw", res={"app": {"shop": "rw"}}, expires_in_s=3600))
    say("mint", f"the authority: a token of acme that may read and write app shop, {len(token.text)} characters", took)
    return token


def use(client: Client, token: Macaroon) -> Macaroon:
    """Verify the token, narrow it, clear it, be denied."""
    _, took = timed(lambda: client.verify(token))
    say("verify", "the authority: its chain is whole, and it is not revoked", took)
    child, took = timed(lambda: client.narrow(token, act="r", for_s=60))
    say("narrow", "nobody asked: it may only read now, for a minute", took)
    verified, took = timed(lambda: client.verify(child))
    say("verify", f"the authority: the narrowed one, with {len(verified.caveats)} caveats", took)
    _, took = timed(lambda: verified.clear(Access(action="r", resource={"app": "shop"})))
    say("clear", "the app itself: reading app shop is allowed", took)
    try:
        verified.clear(Access(action="w", resource={"app": "shop"}))
    except Denied as denial:
        denied("clear", f"the app itself: {denial}")
    else:
        raise SystemExit("a write was allowed to a token that may only read")
    return child


def end(client: Client, token: Macaroon, child: Macaroon) -> None:
    """Revoke the token: its narrowed child dies with it."""
    _, took = timed(lambda: client.revoke(token))
    say("revoke", "the authority: on the disk, for the token and all attenuated from it", took)
    denied("verify", f"the authority: {still_dead(client, child)}")


def still_dead(client: Client, token: Macaroon) -> Denied:
    """Return what denies a revoked token."""
    try:
        client.verify(token)
    except Denied as denial:
        return denial
    raise SystemExit("a revoked token was verified")


# --- the parts ----------------------------------------------------------------------------------------------


def configured(folder: Path) -> dict[str, str]:
    """Generate the keys of one node and of one signer; return the environment that they make up."""
    keys = folder / "keys"
    own = {name: value for name, value in os.environ.items() if not name.startswith("TKDB_")}
    written = tkdb("keys", "generate", "--directory", str(keys), environment=own).split()
    say("keys", f"{len(written)} files, for their owner only: {', '.join(Path(path).name for path in written)}")
    return own | {
        "TKDB_NAME": NAME,
        "TKDB_AUTHORITY_KEY_FILE": str(keys / "authority.key"),
        "TKDB_SEAL_KEYS_FILE": str(keys / "seal.key"),
        "TKDB_SIGNERS_FILE": str(keys / "signers.toml"),
        "TKDB_DB": str(folder / "tkdb.db"),
        "TKDB_BIND": "127.0.0.1:0",
        "TKDB_DRAIN_MS": "100",
    }


def tkdb(*arguments: str, environment: dict[str, str]) -> str:
    """Run one ``tkdb`` command to its end; return what it printed."""
    return subprocess.run(  # noqa: S603  our own program, our own arguments
        [*TKDB, *arguments], env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[tuple[Client, float]]:
    """Give a client of a node that serves meanwhile, and how long the node took to be ready, in ms."""
    began = time.perf_counter()
    log = Path(environment["TKDB_DB"]).with_suffix(".log")
    with log.open("a") as errors:
        node = subprocess.Popen(  # noqa: S603  our own program, our own arguments
            [*TKDB, "serve", "--json"], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        if node.stdout is None or not (line := node.stdout.readline()):
            raise SystemExit(f"tkdb serve ended with {node.wait(STOP_S)} before it was ready:\n{log.read_text()}")
        took_ms = (time.perf_counter() - began) * 1000
        ready = json.loads(line)
        say("serve", f"{ready['name']} on {ready['address']}", took_ms)
        signer = Path(environment["TKDB_AUTHORITY_KEY_FILE"]).with_name("signer.key").read_text().strip()
        with Client(f"http://{ready['address']}", ready["authority"], signer=signer) as client:
            yield client, took_ms
    finally:
        node.terminate()
        try:
            node.wait(STOP_S)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
    say("stop", f"SIGTERM: it drained, and ended with {node.returncode}")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return what ``call`` returns, and how long it took, in ms."""
    began = time.perf_counter()
    result = call()
    return result, (time.perf_counter() - began) * 1000


def say(what: str, text: str, took_ms: float | None = None) -> None:
    """Print one line of the transcript."""
    took = "" if took_ms is None else f"{took_ms:.1f} ms" if took_ms >= 1 else f"{took_ms * 1000:.0f} µs"
    print(f"{what:<8} {took:>9}  {text}", flush=True)  # noqa: T201  a transcript is what a demo prints


def denied(what: str, text: str) -> None:
    """Print one line about a denial, which was wanted."""
    say(what, f"denied by {text}")


if __name__ == "__main__":
    sys.exit(main())
