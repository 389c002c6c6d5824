"""An app for the stand-in's tests, which answers with its machine and the request. Run it as a script.

A caller controls the answer with request headers. A replayed request still has them:

``x-answer-replay``   the ``fly-replay`` header of the answer, unless the request was replayed already
``x-answer-always``   the same, for replayed requests too
``x-answer-status``   the status
``x-answer-header``   one more header, as ``name: value``
``x-answer-ms``       the time before the answer

While the file exists that ``UNREADY`` names, the health check answers 503.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys

MACHINE, REGION = os.environ.get("FLY_MACHINE_ID"), os.environ.get("FLY_REGION")
UNREADY = os.environ.get("UNREADY", "")
request_count = 0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global request_count
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            method, path, _ = first.split(" ", 2)
            headers: dict[str, str] = {}
            for line in filter(None, lines):
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await _body(reader, headers)
            request_count += path != "/readyz"
            await asyncio.sleep(int(headers.get("x-answer-ms", "0")) / 1000)
            peer = writer.get_extra_info("peername")[0]
            writer.write(answer(method, path, headers, body, peer))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def answer(method: str, path: str, headers: dict[str, str], body: bytes, peer: str) -> bytes:
    echoed = {
        "machine": MACHINE, "region": REGION, "method": method, "path": path, "headers": headers,
        "request_count": request_count, "peer": peer, "length": len(body), "sha256": hashlib.sha256(body).hexdigest(),
    }  # fmt: skip
    content = json.dumps(echoed).encode()
    status = headers.get("x-answer-status", "200")
    if path == "/readyz" and UNREADY and os.path.exists(UNREADY):  # noqa: PTH110  pathlib would slow down the start
        status = "503"
    lines = [f"HTTP/1.1 {status} Echo", f"content-length: {len(content)}"]
    replayed = "fly-replay-src" in headers or "fly-replay-failed" in headers
    replay = headers.get("x-answer-always") or ("" if replayed else headers.get("x-answer-replay", ""))
    if replay:
        lines.append(f"fly-replay: {replay}")
    if "x-answer-header" in headers:
        lines.append(headers["x-answer-header"])
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else content)


async def main() -> None:
    host, _, port = os.environ["BIND"].rpartition(":")
    server = await asyncio.start_server(serve, host, int(port), limit=1 << 21)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
