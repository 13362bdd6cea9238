"""Serve an engine: claim the port, answer 503 until the model is loaded and compiled, serve until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llmanac.core import interrupts
from llmanac.core.errors import LlmanacError
from llmanac.core.progress import Report
from llmanac.generate.answers import Assistant
from llmanac.generate.constrain import compile_kernels
from llmanac.generate.engine import Engine
from llmanac.web._errors import ApiError, json_error
from llmanac.web.asgi import Guard
from llmanac.web.hosts import Hosts, claim_port
from llmanac.web.http import config
from llmanac.web.server import BODY_SECONDS, MAX_BODY, create_app

GRACE_SECONDS = 3  # how long streams in progress may go on after Ctrl-C

NOTED_SECONDS = 3  # of compiling, after which a line says so
LOADING = "the model is loading; try again in a moment"
COMPILING = "the server is compiling its kernels; this happens once, try again in a moment"

SAY = functools.partial(print, flush=True)

if TYPE_CHECKING:
    from llmanac.evaluate.embed import Embedder
    from llmanac.web._service import Service

Load = Callable[[], tuple[Engine, Assistant | None, "Embedder | None"]]


def serve(
    engine: Engine | Load,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model_name: str = "llmanac",
    assistant: Assistant | None = None,
    allow_hosts: Iterable[str] = (),
    allow_origins: Iterable[str] = (),
    api_keys: Iterable[str] = (),
    report: Report = SAY,
    **options: Any,
) -> None:
    """Serve until Ctrl-C. The port is claimed before a model is loaded, so a taken port is reported at once; while it
    loads, and while the kernels of constraints compile, requests are answered with 503.

    Args:
        engine: an engine, or a function that loads one, its assistant and an embedder (None where there is none).
        host: where to listen; the loopback address by default, so that nobody else reaches it.
        model_name, api_keys, options: see `create_app`.
        allow_hosts: names besides `host` and the loopback's that requests may give this server.
        allow_origins: of other sites' pages that may use it.
        report: what lines for the user are given to: where the server is, once it can answer; before that,
            that it compiles, where this takes seconds.

    Raises:
        LlmanacError: the port cannot be claimed, a name in `allow_hosts` or an origin is none, an API key is empty.
    """
    hosts, keys = Hosts(host, allow_hosts, allow_origins), list(api_keys)
    if not all(key.strip() for key in keys):
        raise LlmanacError("--api-key: is empty; give the text that clients send, or leave it out")
    with contextlib.closing(claim_port(host, port)) as claimed:
        name, actual = claimed.getsockname()[:2]
        address = f"http://{f'[{name}]' if ':' in name else name}:{actual}"

        def load() -> FastAPI:
            found, answers, embedder = (engine, assistant, None) if isinstance(engine, Engine) else engine()
            given = {"hosts": hosts, "embedder": embedder, "api_keys": keys, **options}
            app = create_app(found, model_name=model_name, assistant=answers, **given)
            loading.state = "compiling"
            slow = threading.Timer(NOTED_SECONDS, report, [f"Loading {model_name}: compiling its kernels, once ..."])
            slow.daemon = True
            slow.start()
            compile_kernels(found.tokenizer, found.eos_ids, found.model.vocab_size)
            slow.cancel()
            return app

        def ready(service: Service) -> None:
            report(f"Serving {model_name}: chat page {address}/, OpenAI API {address}/v1. Press Ctrl-C to stop.")
            kept = service.engine.prefix_cache
            if kept is not None:
                megabytes = kept.budget / 2**20
                report(f"Beginnings that prompts share are kept in up to {megabytes:.0f} MiB (--prefix-cache).")

        loading = Loading(load, model_name, hosts, keys)
        loading.ready = ready
        run(loading, claimed)


class Loading:
    """The app of a server whose model is not ready yet; once it is, the server's own app.

    Until then /health says so (503), /v1/models names the model, and every other page is refused (503).

    Attributes:
        state: what it does: "loading" or "compiling".
        service: what the app's routes share, once it is there.
        error: why it will never be there.
        ready: called once requests are answered.
    """

    def __init__(self, load: Callable[[], FastAPI], model_name: str, hosts: Hosts, keys: list[str]) -> None:
        self.state = "loading"
        self.service: Service | None = None
        self.error: BaseException | None = None
        self.ready: Callable[[Service], None] = lambda service: None
        self.failed: Callable[[], None] = lambda: None
        self._load, self._model_name = load, model_name
        self._app: ASGIApp = Guard(self._answer, hosts=hosts, max_body=MAX_BODY, body_seconds=BODY_SECONDS, keys=keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        threading.Thread(target=self._run, name="llmanac-loading", daemon=True).start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self.service is not None:
            self.service.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _run(self) -> None:
        try:
            app = self._load()
            app.state.service.start()
        except BaseException as error:  # whatever it is, the main thread raises it
            self.error = error
            self.failed()
        else:
            self.service, self._app = app.state.service, app
            self.ready(self.service)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = ApiError(503, COMPILING if self.state == "compiling" else LOADING, code=self.state)
        response = json_error(why, scope["path"])
        if scope["path"] == "/health":
            response = JSONResponse({"status": self.state}, status_code=503)
        elif scope["path"] == "/v1/models":
            card = {"id": self._model_name, "object": "model", "created": int(time.time()), "owned_by": "llmanac"}
            response = JSONResponse({"object": "list", "data": [card]})
        await response(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn, with streams that are still going ended by an error event rather than cut off."""

    def __init__(self, app: Loading) -> None:
        super().__init__(config(app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS))
        self._loading = app
        app.failed = lambda: setattr(self, "should_exit", True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        if self._loading.service is not None:
            worker = self._loading.service.worker
            while any(worker.counts) and time.monotonic() < deadline and not self.force_exit:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(worker.close)
        await super().shutdown(sockets)


def run(app: Loading, claimed: socket.socket) -> None:
    """Run an app on a bound socket until Ctrl-C. Raises what kept its model from loading."""
    try:
        Server(app).run(sockets=[claimed])
    except KeyboardInterrupt:  # uvicorn raises it again once everything is closed
        if app.service is None:
            raise
    if app.error is not None:
        raise app.error
    interrupts.answered()
