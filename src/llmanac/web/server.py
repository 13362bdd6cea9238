"""The server: OpenAI's `/v1/completions` and `/v1/chat/completions` over one engine, and the chat page.

    app = create_app(Engine(model, tokenizer), model_name="quickstart")

Every request is checked before anything is queued; the queue is bounded (429 with retry-after beyond it); a client
that goes away takes its work with it; a failure after the headers is sent as an error event, since clients take a
stream that merely ends for a whole answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from llmanac import __version__
from llmanac.core.errors import LlmanacError, RequestError
from llmanac.generate.engine import Engine
from llmanac.generate.prefix_cache import DEFAULT_BYTES, PrefixCache
from llmanac.web import _errors
from llmanac.web._asgi import DONE, PING, EventStream, Guard, event, unless_disconnected
from llmanac.web._errors import ApiError
from llmanac.web._logprobs import TokenTexts
from llmanac.web._replies import ChatReply, CompletionReply, Reply
from llmanac.web._wire import Body, ChatBody, CompletionBody
from llmanac.web.assistant import Assistant, answering_job, prompt_of, question_of
from llmanac.web.worker import Job, Worker

B = TypeVar("B", bound=BaseModel)

MAX_BODY = 8 * 2**20  # bytes
PING_SECONDS = 15.0
PAGE = Path(__file__).with_name("page.html")
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Service:
    """What the routes share: the engine, its worker, the optional assistant, and how a job becomes a response."""

    def __init__(self, engine: Engine, model_name: str, assistant: Assistant | None, max_queue: int) -> None:
        self.engine, self.model_name, self.assistant = engine, model_name, assistant
        self.worker = Worker(engine, max_queue=max_queue)
        self.created = int(time.time())

    @property
    def can_chat(self) -> bool:
        template = getattr(self.engine.tokenizer, "chat_template", None)
        return self.assistant is not None or template is not None

    def check_model(self, name: str | None) -> None:
        if name not in (None, "", self.model_name):
            message = f"model: no model is called {name!r} here; this server has {self.model_name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def model_card(self) -> dict[str, Any]:
        return {
            "id": self.model_name,
            "object": "model",
            "created": self.created,
            "owned_by": "llmanac",
            "max_model_len": self.engine.model.max_length,
            "llmanac": {"chat": self.can_chat, "assistant": self.assistant is not None},
        }

    async def respond(self, http: Request, body: Body, job: Job, reply: Reply, ignored: list[str]) -> Response:
        """Run a job and answer with the whole reply or a stream of it."""
        headers = {"x-llmanac-ignored": ", ".join(ignored)} if ignored else {}
        self.worker.submit(job)
        if body.stream:
            events = self._events(job, reply, body.include_usage)
            return EventStream(events, on_close=lambda: self.worker.cancel(job), headers=headers)
        try:
            done = await unless_disconnected(http.receive, _drain(job))
        finally:
            self.worker.cancel(job)
        if done is None:
            return Response(status_code=499)  # nobody reads it
        return JSONResponse(reply.whole(job.extra), headers=headers)

    async def _events(self, job: Job, reply: Reply, include_usage: bool) -> AsyncIterator[bytes]:
        try:
            for chunk in reply.opening():
                yield event(chunk)
            async for item in job.pieces(PING_SECONDS):
                if item is None:
                    yield PING
                    continue
                for chunk in reply.chunks(*item, job.extra):
                    yield event(chunk)
        except Exception as error:
            yield event(_errors.error_body(error)[1])
            return
        if include_usage:
            yield event(reply.usage_chunk())
        yield DONE


async def _drain(job: Job) -> bool:
    async for _ in job.pieces():
        pass
    return True


async def read(http: Request, kind: type[B]) -> B:
    """The request's JSON body, checked. Raises ApiError or ValidationError, both answered with 400."""
    sent = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent != "application/json":  # a page of another site cannot send this without being asked first
        raise ApiError(415, "send the body as JSON, with the header content-type: application/json")
    try:
        return kind.model_validate_json(await http.body())
    except ClientDisconnect:
        raise ApiError(499, "the client went away before its body was here") from None


def create_app(
    engine: Engine,
    *,
    model_name: str = "llmanac",
    assistant: Assistant | None = None,
    max_queue: int = 64,
    max_body: int = MAX_BODY,
    prefix_cache_bytes: int | None = DEFAULT_BYTES,
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
    """
    if engine.prefix_cache is None and prefix_cache_bytes and PrefixCache.fits(engine.model):
        engine.prefix_cache = PrefixCache(engine.model, prefix_cache_bytes)
    service = Service(engine, model_name, assistant, max_queue)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.worker.close()

    app = FastAPI(title="llmanac", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    _errors.install(app)
    _api_routes(app, service)
    _other_routes(app, service)
    app.add_middleware(Guard, max_body=max_body)
    return app


def _body_schema(kind: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


def _api_routes(app: FastAPI, service: Service) -> None:
    engine, tokenizer = service.engine, service.engine.tokenizer

    @app.post("/v1/completions", openapi_extra=_body_schema(CompletionBody))
    async def completions(http: Request) -> Response:
        body = await read(http, CompletionBody)
        service.check_model(body.model)
        body.check()
        options = body.options(engine.eos_ids)
        options["max_new_tokens"] = 16 if body.max_tokens is None else body.max_tokens
        options["logprobs"] = body.logprobs
        if body.echo and body.logprobs is not None:
            options["prompt_logprobs"] = body.logprobs
        prompts = body.prompts()
        requests = [engine.request(prompt, **options) for prompt in prompts]
        texts = TokenTexts(tokenizer, as_ids=bool(body.return_tokens_as_token_ids))
        echo = [_text(p, texts) for p in prompts] if body.echo else None
        reply = CompletionReply(service.model_name, requests, texts, echo=echo, logprobs=body.logprobs)
        return await service.respond(http, body, Job(requests), reply, body.ignored())

    @app.post("/v1/chat/completions", openapi_extra=_body_schema(ChatBody))
    async def chat_completions(http: Request) -> Response:
        body = await read(http, ChatBody)
        service.check_model(body.model)
        body.check()
        messages = body.conversation()
        options = body.options(engine.eos_ids)
        alternatives = (body.top_logprobs or 0) if body.logprobs else None
        texts = TokenTexts(tokenizer, as_ids=bool(body.return_tokens_as_token_ids))
        ignored = body.ignored()
        limit = body.limit
        if service.assistant is not None:
            question = question_of(messages)
            unused = ("temperature", "top_p", "top_k", "seed", "logprobs", "top_logprobs")
            ignored = sorted({*ignored, *(name for name in unused if getattr(body, name) is not None)})
            alternatives, limit = None, sys.maxsize if limit is None else limit  # the answer is as long as it is
            ids = await asyncio.to_thread(prompt_of, service.assistant, engine, messages)
        else:
            ids = await asyncio.to_thread(_chat_ids, tokenizer, messages)
            options["logprobs"] = alternatives
        options["max_new_tokens"] = _room(engine, len(ids)) if limit is None else limit
        request = engine.request(ids, **options)
        reply = ChatReply(service.model_name, [request], texts, alternatives=alternatives)
        if service.assistant is not None:
            job = answering_job(engine, request, service.assistant, question)
        else:
            job = Job([request])
        return await service.respond(http, body, job, reply, ignored)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.model_card()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return service.model_card()


def _text(prompt: str | list[int], texts: TokenTexts) -> str:
    """A prompt as text, for `echo`."""
    return prompt if isinstance(prompt, str) else b"".join(map(texts.bytes_of, prompt)).decode("utf-8", "replace")


def _chat_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The conversation as token ids, ready for the assistant's turn."""
    if tokenizer is None or tokenizer.chat_template is None:
        raise ApiError(400, "messages: this model has no chat template; use /v1/completions", param="messages")
    try:
        return list(tokenizer.encode_chat(messages, add_generation_prompt=True)[0])
    except LlmanacError as error:
        raise RequestError(f"messages: {error}") from error


def _room(engine: Engine, prompt_tokens: int) -> int:
    """How many tokens an answer may have where the client set no limit: what is left of the context."""
    context = engine.model.max_length
    return 1024 if context is None else max(1, context - prompt_tokens)


def _other_routes(app: FastAPI, service: Service) -> None:
    tokenizer = service.engine.tokenizer

    @app.get("/health")
    async def health() -> dict[str, Any]:
        running, waiting = service.worker.counts
        kept = service.engine.prefix_cache
        cache = {} if kept is None else {"prefix_cache": kept.report()}
        return {"status": "ok", "running": running, "waiting": waiting, **cache}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text("utf-8"), headers={"content-security-policy": PAGE_POLICY})

    class TokenizeBody(BaseModel):
        prompt: str
        add_special_tokens: bool = False

    @app.post("/tokenize", openapi_extra=_body_schema(TokenizeBody))
    async def tokenize(http: Request) -> dict[str, Any]:
        body = await read(http, TokenizeBody)
        if tokenizer is None:
            raise ApiError(400, "this server has no tokenizer")
        ids = [int(i) for i in tokenizer.encode(body.prompt)]
        if body.add_special_tokens and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids = [tokenizer.bos_id, *ids]
        return {"tokens": ids, "count": len(ids), "max_model_len": service.engine.model.max_length}

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
