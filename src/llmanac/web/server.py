"""The server: OpenAI's `/v1/completions` and `/v1/chat/completions` over one engine, and the chat page.

    app = create_app(Engine(model, tokenizer), model_name="quickstart")

Every request is checked before anything is queued; the queue is bounded (429 with retry-after beyond it); a client
that goes away takes its work with it; a failure after the headers is sent as an error event, since clients take a
stream that merely ends for a whole answer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect

from llmanac import __version__
from llmanac.generate.answers import Assistant
from llmanac.generate.constrain import Matchers
from llmanac.generate.engine import Engine
from llmanac.generate.prefix_cache import DEFAULT_BYTES, PrefixCache
from llmanac.web import _errors, _openapi, _prepare
from llmanac.web._asgi import DONE, PING, EventStream, Guard, event, unless_disconnected
from llmanac.web._embeddings import vectors
from llmanac.web._errors import ApiError
from llmanac.web._hosts import Hosts
from llmanac.web._metrics import render
from llmanac.web._pool import Pool
from llmanac.web._prepare import Prepared
from llmanac.web._replies import Reply
from llmanac.web._wire import header_of
from llmanac.web.assistant import answering_job, examples_of
from llmanac.web.worker import Job, Worker

if TYPE_CHECKING:
    from llmanac.evaluate.embed import Embedder

T = TypeVar("T")

MAX_BODY = 8 * 2**20  # bytes; more than the longest text takes, whatever way it is escaped
BODY_SECONDS = 30.0
PING_SECONDS = 15.0
PAGE = Path(__file__).with_name("page.html")
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Service:
    """What the routes share: the engine, its worker, the optional assistant, and how a job becomes a response."""

    def __init__(
        self,
        engine: Engine,
        model_name: str,
        assistant: Assistant | None,
        max_queue: int,
        embedder: Embedder | None = None,
        embedding_name: str = "embedding",
    ) -> None:
        self.engine, self.model_name, self.assistant = engine, model_name, assistant
        self.embedder, self.embedding_name = embedder, embedding_name
        self.examples = examples_of(assistant)
        self.worker = Worker(engine, max_queue=max_queue)
        self.pool = Pool(waiting=max_queue)
        self.chats = Pool(threads=1, waiting=max_queue, name="chats")  # one process renders templates, one at a time
        self.embeddings = Pool(threads=1, waiting=max_queue, name="embeddings")
        self.structures: Matchers = {}
        self.compiling = threading.Lock()
        self.created = int(time.time())

    def start(self) -> None:
        """Start the threads."""
        self.worker.start()
        for pool in (self.pool, self.chats, self.embeddings):
            pool.start()

    def close(self) -> None:
        """End the threads; what is not over ends with an error."""
        for pool in (self.pool, self.chats, self.embeddings):
            pool.close()
        self.worker.close()

    @property
    def can_chat(self) -> bool:
        template = getattr(self.engine.tokenizer, "chat_template", None)
        sees = getattr(self.engine.model, "sees", False)
        return self.assistant is not None or template is not None or sees

    def check_model(self, name: str | None) -> None:
        if name not in (None, "", self.model_name, f"{self.model_name}.gguf"):
            message = f"model: no model is called {name!r} here; this server has {self.model_name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def model_card(self) -> dict[str, Any]:
        return {
            "id": self.model_name,
            "object": "model",
            "created": self.created,
            "owned_by": "llmanac",
            "max_model_len": self.engine.model.max_length,
            "llmanac": {
                "chat": self.can_chat,
                "assistant": self.assistant is not None,
                **({"images": True} if getattr(self.engine.model, "sees", False) else {}),
                **({"examples": self.examples} if self.examples else {}),
            },
        }

    def embedding_card(self) -> dict[str, Any]:
        card = {**self.model_card(), "id": self.embedding_name, "max_model_len": getattr(self.embedder, "most", None)}
        return {**card, "llmanac": {"chat": False, "assistant": False}}

    async def read(self, http: Request, prepare: Callable[[Service, bytes, float], T]) -> T:
        """What `prepare` makes of the request's body, in a thread.

        Raises ApiError or ValidationError (400), Busy (429), or ClientDisconnect where nobody waits any more.
        """
        sent = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if sent != "application/json":  # a page of another site cannot send this without being asked first
            raise ApiError(415, "send the body as JSON, with the header content-type: application/json")
        data = await http.body()
        renders = prepare is _prepare.chat and self.assistant is None and self.can_chat
        pool = self.chats if renders else self.embeddings if prepare is vectors else self.pool
        done = await unless_disconnected(http.receive, pool.run(lambda until: (prepare(self, data, until),)))
        if done is None:
            raise ClientDisconnect
        return done[0]

    async def respond(self, http: Request, asked: Prepared) -> Response:
        """Run what was asked and answer with the whole reply or a stream of it."""
        headers = header_of(asked.ignored)
        if self.assistant is not None and asked.questions is not None:
            job = answering_job(self.engine, asked.requests[0], self.assistant, asked.questions)
        else:
            job = Job(asked.requests, stream=bool(asked.body.stream))
        self.worker.submit(job)
        if asked.body.stream:
            events = self._events(job, asked.reply, asked.body.include_usage)
            return EventStream(events, on_close=lambda: self.worker.cancel(job), headers=headers)
        try:
            done = await unless_disconnected(http.receive, _drain(job))
        finally:
            self.worker.cancel(job)
        if done is None:
            raise ClientDisconnect
        return JSONResponse(asked.reply.whole(job.extra), headers=headers)

    async def _events(self, job: Job, reply: Reply, include_usage: bool) -> AsyncIterator[bytes]:
        try:
            for chunk in reply.opening():
                yield event(chunk)
            async for items in job.steps(PING_SECONDS):
                data = b"".join(event(chunk) for item in items for chunk in reply.chunks(*item, job.extra))
                if data or not items:
                    yield data or PING
        except Exception as error:
            yield event(_errors.error_body(error)[1])
            return
        if include_usage:
            yield event(reply.usage_chunk())
        yield DONE


async def _drain(job: Job) -> bool:
    async for _ in job.steps():
        pass
    return True


def create_app(
    engine: Engine,
    *,
    model_name: str = "llmanac",
    assistant: Assistant | None = None,
    max_queue: int = 64,
    max_body: int = MAX_BODY,
    body_seconds: float = BODY_SECONDS,
    hosts: Hosts | None = None,
    prefix_cache_bytes: int | None = DEFAULT_BYTES,
    embedder: Embedder | None = None,
    embedding_name: str = "embedding",
    api_keys: Iterable[str] = (),
) -> FastAPI:
    """The ASGI app.

    Args:
        prefix_cache_bytes: what an engine without a prefix cache is given to keep the states of prompts in, so that
            one which begins like an earlier one is not computed from its start; None or 0 gives it none, and a model
            whose state cannot be kept in blocks has none.
        model_name: the id that clients ask for.
        assistant: answers chat completions in place of the bare model; its citations come back in the reply's field
            `llmanac`.
        max_queue: requests that may wait while all of the engine's rows are taken.
        max_body: bytes of the largest request body.
        body_seconds: for a request's body to arrive.
        hosts: the names that requests may give this server; the loopback's own where it is left out.
        embedder: answers /v1/embeddings, under the name `embedding_name`.
        api_keys: of which requests must have one, all but those of the chat page's text and of /health.
    """
    if engine.prefix_cache is None and prefix_cache_bytes and PrefixCache.fits(engine.model):
        engine.keep_prefixes(prefix_cache_bytes)
    service = Service(engine, model_name, assistant, max_queue, embedder, embedding_name)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(title="llmanac", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.openapi = lambda: _openapi.document(app, service)  # type: ignore[method-assign]
    _errors.install(app)
    _api_routes(app, service)
    _other_routes(app, service)
    keys = list(api_keys)
    app.add_middleware(Guard, hosts=hosts or Hosts(), max_body=max_body, body_seconds=body_seconds, keys=keys)
    return app


def _api_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions")
    async def completions(http: Request) -> Response:
        return await service.respond(http, await service.read(http, _prepare.completion))

    @app.post("/v1/chat/completions")
    async def chat_completions(http: Request) -> Response:
        return await service.respond(http, await service.read(http, _prepare.chat))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        more = [] if service.embedder is None else [service.embedding_card()]
        return {"object": "list", "data": [service.model_card(), *more]}

    @app.post("/v1/embeddings")
    async def embeddings(http: Request) -> Response:
        reply, ignored = await service.read(http, vectors)
        return JSONResponse(reply, headers=header_of(ignored))

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if service.embedder is not None and name == service.embedding_name:
            return service.embedding_card()
        service.check_model(name)
        return service.model_card()


def _other_routes(app: FastAPI, service: Service) -> None:
    tokenizer = service.engine.tokenizer

    @app.get("/health")
    async def health() -> Any:
        if lost := service.engine.lost():
            return JSONResponse({"status": "lost", "message": lost}, status_code=503)
        running, waiting = service.worker.counts
        kept = service.engine.prefix_cache
        cache = {} if kept is None else {"prefix_cache": kept.report()}
        drafts = {} if service.engine.drafter is None else {"speculation": service.engine.speculation.report()}
        return {"status": "ok", "running": running, "waiting": waiting, **cache, **drafts}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(render(service.worker, service.model_name), media_type="text/plain; version=0.0.4")

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text("utf-8"), headers={"content-security-policy": PAGE_POLICY})

    @app.post("/tokenize")
    async def tokenize(http: Request) -> Response:
        reply, ignored = await service.read(http, _prepare.tokens)
        return JSONResponse(reply, headers=header_of(ignored))

    @app.post("/detokenize")
    async def detokenize(http: Request) -> Response:
        reply, ignored = await service.read(http, _prepare.text_of_tokens)
        return JSONResponse(reply, headers=header_of(ignored))

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        if tokenizer is None:
            raise ApiError(404, "this server has no tokenizer")
        names = {i: text for text, i in tokenizer.special_tokens.items()}
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        return {
            **{f"{k}_token": None if v is None else names.get(v) for k, v in ids.items()},
            "chat_template": tokenizer.chat_template,
        }
