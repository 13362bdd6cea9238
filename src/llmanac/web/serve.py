"""Serve an engine: claim the port, load the model, serve until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import sys
import time
from collections.abc import Callable, Iterable

import uvicorn
from fastapi import FastAPI

from llmanac.core import interrupts
from llmanac.core.errors import LlmanacError
from llmanac.core.progress import Report
from llmanac.generate.answers import Assistant
from llmanac.generate.engine import Engine
from llmanac.generate.prefix_cache import DEFAULT_BYTES
from llmanac.web._hosts import Hosts
from llmanac.web._http import config
from llmanac.web.server import create_app
from llmanac.web.worker import Worker

GRACE_SECONDS = 3  # how long streams in progress may go on after Ctrl-C

SAY = functools.partial(print, flush=True)

Load = Callable[[], tuple[Engine, Assistant | None]]


def claim_port(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one.

    Raises:
        LlmanacError: the port is taken, is not allowed, or the host is not an address of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise LlmanacError(f"--host {host}: not an address of this machine; use 127.0.0.1 or 0.0.0.0") from error
    family, kind, protocol, _, address = found[0]
    claimed = socket.socket(family, kind, protocol)
    if sys.platform != "win32":  # there it would let two servers share a port
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        claimed.bind(address)
        claimed.listen(128)
    except OSError as error:
        claimed.close()
        if isinstance(error, PermissionError):
            raise LlmanacError(f"--port {port}: this user may not listen on it; use one above 1023") from error
        reason = "something else listens there" if "in use" in str(error).lower() else str(error.strerror).lower()
        raise LlmanacError(f"--port {port}: cannot listen on {host} ({reason}); choose another --port") from error
    return claimed


def serve(
    engine: Engine | Load,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model_name: str = "llmanac",
    assistant: Assistant | None = None,
    max_queue: int = 64,
    prefix_cache_bytes: int | None = DEFAULT_BYTES,
    allow_hosts: Iterable[str] = (),
    report: Report = SAY,
) -> None:
    """Serve until Ctrl-C. The port is claimed before a model is loaded, so a taken port is reported at once.

    Args:
        engine: an engine, or a function that loads one (with its assistant, if it has one).
        host: where to listen; the loopback address by default, so that nobody else reaches it.
        prefix_cache_bytes: see `create_app`.
        allow_hosts: names besides `host` and the loopback's that requests may give this server.
        report: what lines for the user are given to: where the server is, once it listens.

    Raises:
        LlmanacError: the port cannot be claimed, or a name in `allow_hosts` is none.
    """
    hosts = Hosts(host, allow_hosts)
    with contextlib.closing(claim_port(host, port)) as claimed:
        if not isinstance(engine, Engine):
            engine, assistant = engine()
        app = create_app(
            engine,
            model_name=model_name,
            assistant=assistant,
            max_queue=max_queue,
            prefix_cache_bytes=prefix_cache_bytes,
            hosts=hosts,
        )
        name, actual = claimed.getsockname()[:2]
        shown = f"[{name}]" if ":" in name else name
        address = f"http://{shown}:{actual}"
        report(f"Serving {model_name}: chat page {address}/, OpenAI API {address}/v1. Press Ctrl-C to stop.")
        if engine.prefix_cache is not None:
            megabytes = engine.prefix_cache.budget / 2**20
            report(f"Beginnings that prompts share are kept in up to {megabytes:.0f} MiB (--prefix-cache).")
        run(app, claimed)


class Server(uvicorn.Server):
    """uvicorn, with streams that are still going ended by an error event rather than cut off."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(config(app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS))
        self._worker: Worker = app.state.service.worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while any(self._worker.counts) and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self._worker.close)
        await super().shutdown(sockets)


def run(app: FastAPI, claimed: socket.socket) -> None:
    """Run an app on a bound socket until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
        Server(app).run(sockets=[claimed])
    interrupts.answered()
