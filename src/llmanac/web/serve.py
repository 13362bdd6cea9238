"""Serve an engine: claim the port, answer 503 until the model is loaded and compiled, serve until Ctrl-C.

uvicorn with deadlines for what a client begins to send and never finishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmanac.core import interrupts
from llmanac.core.errors import LlmanacError
from llmanac.core.progress import Report
from llmanac.generate.answers import Assistant
from llmanac.generate.constrain import compile_kernels
from llmanac.generate.engine import Engine
from llmanac.generate.speculative import Speculation
from llmanac.web._errors import ApiError, json_error
from llmanac.web._service import Service
from llmanac.web.asgi import Guard
from llmanac.web.hosts import Hosts, claim_port
from llmanac.web.server import BODY_SECONDS, MAX_BODY
from llmanac.web.several import Several, Slot

HEAD_SECONDS = 10.0  # for a request's headers
LINGER_SECONDS = 3.0  # how long a client that was answered early may go on sending
KEEP_ALIVE_SECONDS = 15
HEAD_BYTES = 64 * 1024


class Protocol(H11Protocol):
    """HTTP/1.1 where a request's headers must arrive in time, and an answered client cannot go on sending for ever.

    The deadline of a body is the `Guard`'s, which knows whether anybody reads it.
    """

    head_seconds = HEAD_SECONDS
    linger_seconds = LINGER_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.our_state is not h11.IDLE:
            self._have_head()
        elif self._head is None and not self.transport.is_closing():  # another request on a kept connection
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(self.linger_seconds, self._hang_up)

    def _hang_up(self) -> None:
        if self.conn.our_state is h11.DONE:  # still behind the answer, and the body is not at its end
            self.transport.close()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self.head_seconds, self._too_slow)

    def _have_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        if self.transport.is_closing() or self.conn.our_state is not h11.IDLE:
            return
        if self.conn.trailing_data[0]:
            self._refuse(
                ApiError(408, f"the headers were not here after {self.head_seconds:g} s; send the request at once")
            )
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "this is not an HTTP/1.1 request that can be read"))
        self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answer what never became a request."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        response = json_error(error)
        headers = [*response.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=response.status_code, headers=headers)
        parts = (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))


def config(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        server_header=False,
        log_config=None,  # uvicorn's own closes every handler of the process, and absl's then closes its stream
        **options,
    )


GRACE_SECONDS = 3  # how long requests in progress may go on after Ctrl-C
DRAIN_SECONDS = 30  # the same after SIGTERM, by which a service manager ends a server

REHEARSED = 32  # tokens of a prompt that is answered before clients are
NOTED_SECONDS = 3  # of compiling, after which a line says so
LOADING = "the model is loading; try again in a moment"
COMPILING = "the server is compiling its kernels; this happens once, try again in a moment"

SAY = functools.partial(print, flush=True)

if TYPE_CHECKING:
    from llmanac.evaluate.embed import Embedder


@dataclass(frozen=True)
class Model:
    """A model to serve.

    Attributes:
        name: what clients ask for.
        load: gives its engine, and its assistant or None.
        size: bytes of its files.
        adapters: names under which it answers with one of its engine's adapters.
    """

    name: str
    load: Callable[[], tuple[Engine, Assistant | None]]
    size: int = 0
    adapters: tuple[str, ...] = ()


def serve(
    models: Engine | Sequence[Model],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model_name: str = "llmanac",
    assistant: Assistant | None = None,
    memory: int | None = None,
    embedder: Callable[[], Embedder] | None = None,
    allow_hosts: Iterable[str] = (),
    allow_origins: Iterable[str] = (),
    api_keys: Iterable[str] = (),
    report: Report = SAY,
    **options: Any,
) -> None:
    """Serve until Ctrl-C. The port is claimed before a model is loaded, so a taken port is reported at once; while the
    first loads, and while the kernels of constraints compile, requests are answered with 503. Others are loaded when a
    request first names them.

    Args:
        models: an engine, which answers under `model_name` and with `assistant`, or several models.
        host: where to listen; the loopback address by default, so that nobody else reaches it.
        embedder: loads what answers /v1/embeddings and /v1/rerank.
        memory: bytes that loaded models may take together, by the size of their files; None: no bound.
        allow_hosts: names besides `host` and the loopback's that requests may give this server.
        allow_origins: of other sites' pages that may use it.
        api_keys: see `create_app`; options: see `Service`.
        report: what lines for the user are given to: where the server is, once it can answer; before that,
            that it compiles, where this takes seconds.

    Raises:
        LlmanacError: the port cannot be claimed, a name in `allow_hosts` or an origin is none, an API key is empty.
        RequestError: two models of one name, or one that is larger than the memory.
    """
    hosts, keys = Hosts(host, allow_hosts, allow_origins), list(api_keys)
    if not all(key.strip() for key in keys):
        raise LlmanacError("--api-key: is empty; give the text that clients send, or leave it out")
    if isinstance(models, Engine):
        engine = models
        models = [Model(model_name, lambda: (engine, assistant))]
    shared = None if embedder is None else functools.cache(embedder)

    def made(model: Model) -> Service:
        found, answers = model.load()
        vectors = None if shared is None else shared()
        if loading.state == "loading":
            loading.state = "compiling"
        slow = threading.Timer(NOTED_SECONDS, report, [f"Loading {model.name}: compiling its kernels, once ..."])
        slow.daemon = True
        slow.start()
        compile_kernels(found.tokenizer, found.eos_ids, found.model.vocab_size)
        first_answers(found)
        slow.cancel()
        return Service(found, model_name=model.name, assistant=answers, embedder=vectors, **options)

    slots = [Slot(m.name, functools.partial(made, m), m.size, m.adapters) for m in models]
    several = Several(slots, memory, options.get("max_queue", 64))
    with contextlib.closing(claim_port(host, port)) as claimed:
        name, actual = claimed.getsockname()[:2]
        address = f"http://{f'[{name}]' if ':' in name else name}:{actual}"
        names = ", ".join(slot.name for slot in slots)

        def ready() -> None:
            report(f"Serving {names}: chat page {address}/, OpenAI API {address}/v1. Press Ctrl-C to stop.")
            kept = several.services[0].engine.prefix_cache
            if kept is not None:
                megabytes = kept.budget / 2**20
                report(f"Beginnings that prompts share are kept in up to {megabytes:.0f} MiB (--prefix-cache).")

        loading = Loading(several, hosts, keys)
        loading.ready = ready
        run(loading, claimed)


def first_answers(engine: Engine) -> None:
    """Two short answers, so that what is compiled on first use is compiled before a client waits for it."""
    longest = engine.model.max_length or REHEARSED
    prompts = [[0] * min(REHEARSED, max(1, longest - 2)), [0]]
    engine.generate(prompts, max_new_tokens=2, temperature=1.0, top_p=0.9, seed=0, stop_ids=[])
    engine.speculation = Speculation(engine.speculation.always)  # its times were those of compiling


class Loading:
    """The app of a server whose first model is not ready yet; once it is, all of its models.

    Until then /health says so (503), /v1/models names the model, and every other page is refused (503).

    Attributes:
        state: what it does: "loading" or "compiling"; "ready" once requests are answered.
        error: why they never will be.
        ready: called once they are.
    """

    def __init__(self, several: Several, hosts: Hosts, keys: list[str]) -> None:
        self.state = "loading"
        self.several = several
        self.error: BaseException | None = None
        self.ready: Callable[[], None] = lambda: None
        self.failed: Callable[[], None] = lambda: None
        self._app: ASGIApp = Guard(self._answer, hosts=hosts, max_body=MAX_BODY, body_seconds=BODY_SECONDS, keys=keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        threading.Thread(target=self._run, name="llmanac-loading", daemon=True).start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.several.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _run(self) -> None:
        try:
            self.several.load(self.several.slots[0])
        except BaseException as error:  # whatever it is, the main thread raises it
            self.error = error
            self.failed()
        else:
            self.state = "ready"
            self.ready()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.state == "ready":
            await self.several(scope, receive, send)
            return
        why = ApiError(503, COMPILING if self.state == "compiling" else LOADING, code=self.state)
        response = json_error(why, scope["path"])
        if scope["path"] == "/health":
            response = JSONResponse({"status": self.state}, status_code=503)
        elif scope["path"] == "/v1/models":
            response = JSONResponse({"object": "list", "data": self.several.cards()})
        await response(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn, with streams that are still going ended by an error event rather than cut off."""

    def __init__(self, app: Loading) -> None:
        super().__init__(config(app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS))
        self._loading = app
        app.failed = lambda: setattr(self, "should_exit", True)
        self._grace = GRACE_SECONDS

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._grace = DRAIN_SECONDS if sig == signal.SIGTERM else GRACE_SECONDS
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        deadline = time.monotonic() + self._grace
        several = self._loading.several
        several.drain()
        while any(several.counts) and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)
        for service in several.services:
            await asyncio.to_thread(service.worker.close)
        await super().shutdown(sockets)


def run(app: Loading, claimed: socket.socket) -> None:
    """Run an app on a bound socket until Ctrl-C. Raises what kept its model from loading."""
    try:
        Server(app).run(sockets=[claimed])
    except KeyboardInterrupt:  # uvicorn raises it again once everything is closed
        if app.state != "ready":
            raise
    if app.error is not None:
        raise app.error
    interrupts.answered()
