"""What the routes share: the engine, its worker, the optional assistant, and how a job becomes a response.

Answers of `/v1/responses` that a later request may go on from: the latest ones, within a bound of bytes.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from llmanac.core.types import capabilities
from llmanac.generate.answers import Assistant
from llmanac.generate.constrain import Matchers
from llmanac.generate.engine import Engine, Request
from llmanac.generate.prefix_cache import DEFAULT_BYTES
from llmanac.web._errors import ApiError
from llmanac.web._pool import Pool
from llmanac.web._replies import Reply
from llmanac.web._wire import Body, header_of
from llmanac.web.asgi import EventStream, unless_disconnected
from llmanac.web.assistant import answering_job, examples_of
from llmanac.web.worker import Job, Worker

MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Kept:
    """A reply as it was sent, and the conversation up to its end, as messages of a chat request."""

    reply: dict[str, Any]
    messages: list[dict[str, Any]]
    size: int


class KeptReplies:
    """The latest answers by their ids. For any thread."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.size = most, 0
        self._found: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, reply: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Add an answer; the oldest leave where there are too many bytes. One larger than the bound is not kept."""
        size = len(json.dumps([reply, messages]))
        if size > self.most:
            return
        with self._lock:
            self._found[reply["id"]] = Kept(reply, messages, size)
            self.size += size
            while self.size > self.most:
                self.size -= self._found.popitem(last=False)[1].size

    def get(self, name: str) -> Kept | None:
        """An answer, which counts as new again; None where it was never here, or is no longer."""
        with self._lock:
            if name in self._found:
                self._found.move_to_end(name)
            return self._found.get(name)

    def forget(self, name: str) -> bool:
        """Whether it was there."""
        with self._lock:
            found = self._found.pop(name, None)
            self.size -= 0 if found is None else found.size
            return found is not None


if TYPE_CHECKING:
    from llmanac.evaluate.embed import Embedder

T = TypeVar("T")
PING_SECONDS = 15.0
SUFFIXES = (":latest", ".gguf")  # that a model's name may have: Ollama's clients and llama.cpp's write them


def plain_name(name: str) -> str:
    """A model's name as this server writes it."""
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def unknown_model(name: str, names: Iterable[str]) -> ApiError:
    """The error of a request for a model that is not served."""
    message = f"model: no model is called {name[:100]!r} here; this server has {', '.join(map(repr, names))}"
    return ApiError(404, message, code="model_not_found")


@dataclass(frozen=True)
class Prepared:
    """A checked request.

    Attributes:
        questions: what the assistant is asked, after the earlier ones; None where the model itself goes on.
        ignored: names of the fields that are not read.
    """

    body: Body
    requests: list[Request]
    reply: Reply
    ignored: list[str] = field(default_factory=list)
    questions: list[str] | None = None


class Service:
    """What the routes share: the engine, its worker, the optional assistant, and how a job becomes a response.

    Args:
        prefix_cache_bytes: what an engine without a prefix cache is given to keep the states of prompts in, so that
            one which begins like an earlier one is not computed from its start; None or 0 gives it none, and a model
            whose state cannot be kept in blocks has none.
        model_name: the id that clients ask for.
        assistant: answers chat completions in place of the bare model; its citations come back in the reply's field
            `llmanac`.
        max_queue: requests that may wait while all of the engine's rows are taken.
        embedder: answers /v1/embeddings and /v1/rerank, under the name `embedding_name`.
        seconds: after which a request is given up; a request's own `timeout` may be less.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        model_name: str = "llmanac",
        assistant: Assistant | None = None,
        max_queue: int = 64,
        prefix_cache_bytes: int | None = DEFAULT_BYTES,
        embedder: Embedder | None = None,
        embedding_name: str = "embedding",
        seconds: float | None = None,
    ) -> None:
        if engine.prefix_cache is None and prefix_cache_bytes and engine.keeps_prefixes:
            engine.keep_prefixes(prefix_cache_bytes)
        self.engine, self.model_name, self.assistant = engine, model_name, assistant
        self.embedder, self.embedding_name = embedder, embedding_name
        self.examples = examples_of(assistant)
        self.worker = Worker(engine, max_queue=max_queue)
        self.pool = Pool(waiting=max_queue)
        self.chats = Pool(threads=1, waiting=max_queue, name="chats")  # one process renders templates, one at a time
        self.embeddings = Pool(threads=1, waiting=max_queue, name="embeddings")
        self.kept = KeptReplies()
        self.structures: Matchers = {}
        self.compiling = threading.Lock()
        self.created = int(time.time())
        self.seconds = seconds
        self.adapters = () if engine.registry is None else tuple(engine.registry.names)
        self.names: tuple[str, ...] = (model_name, *self.adapters)  # of all that this address answers for

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
        template = self.engine.chat_template
        sees = capabilities(self.engine.model).sees
        return self.assistant is not None or template is not None or sees

    @property
    def templates(self) -> Pool:
        """Where conversations are prepared: templates are rendered one at a time."""
        return self.chats if self.assistant is None and self.can_chat else self.pool

    def adapter_of(self, name: str) -> str | None:
        """The adapter that is asked for by its name; None for the model alone. Raises ApiError for another name."""
        if (plain := plain_name(name)) in self.adapters:
            return plain
        if plain != plain_name(self.model_name):
            raise unknown_model(name, self.names)
        return None

    def named(self, loaded: bool = False) -> list[str]:
        """The names that it answers to."""
        return [self.model_name, *self.adapters]

    def metrics(self) -> str:
        return self.worker.page(self.model_name)

    def health(self) -> dict[str, Any]:
        """What /health says: ok, draining, or lost where an engine's process has ended."""
        if lost := self.engine.lost():
            return {"status": "lost", "message": lost}
        running, waiting = self.worker.counts
        found: dict[str, Any] = {"status": "draining" if self.worker.draining else "ok"}
        found |= {"running": running, "waiting": waiting}
        if self.engine.prefix_cache is not None:
            found["prefix_cache"] = self.engine.prefix_cache.report()
        if self.engine.drafter is not None:
            found["speculation"] = self.engine.speculation.report()
        return found

    def cards(self) -> list[dict[str, Any]]:
        """What /v1/models lists: the model, and itself with each of its adapters."""
        own = self.model_card()
        further = [{**own, "id": name, "parent": self.model_name} for name in self.adapters]
        return [own, *further, *([] if self.embedder is None else [self.embedding_card()])]

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
                **({"images": True} if capabilities(self.engine.model).sees else {}),
                **({"examples": self.examples} if self.examples else {}),
            },
        }

    def embedding_card(self) -> dict[str, Any]:
        most = None if self.embedder is None else self.embedder.most
        card = {**self.model_card(), "id": self.embedding_name, "max_model_len": most}
        return {**card, "llmanac": {"chat": False, "assistant": False, "vectors": True}}

    async def read(self, http: Http, prepare: Callable[[Service, bytes, float], T], pool: Pool | None = None) -> T:
        """What `prepare` makes of the request's body, in a thread of a pool.

        Raises ApiError or ValidationError (400), Busy (429), or ClientDisconnect where nobody waits any more.
        """
        sent = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if sent != "application/json":  # a page of another site cannot send this without being asked first
            raise ApiError(415, "send the body as JSON, with the header content-type: application/json")
        data = await http.body()
        work = (pool or self.pool).run(lambda until: (prepare(self, data, until),))
        done = await unless_disconnected(http.receive, work)
        if done is None:
            raise ClientDisconnect
        return done[0]

    async def respond(self, http: Http, asked: Prepared) -> Response:
        """Run what was asked and answer with the whole reply or a stream of it."""
        headers = header_of(asked.ignored)
        if self.assistant is not None and asked.questions is not None:
            job = answering_job(self.engine, asked.requests[0], self.assistant, asked.questions)
        else:
            given = [seconds for seconds in (asked.body.timeout, self.seconds) if seconds is not None]
            job = Job(asked.requests, stream=bool(asked.body.stream), seconds=min(given, default=None))
        self.worker.submit(job)
        if asked.body.stream:
            events = self._events(job, asked.reply, asked.body.include_usage)
            kind = {"content-type": asked.reply.media_type}
            return EventStream(events, on_close=lambda: self.worker.cancel(job), headers=headers | kind)
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
                yield reply.frame(chunk)
            async for items in job.steps(PING_SECONDS):
                data = b"".join(reply.frame(chunk) for item in items for chunk in reply.chunks(*item, job.extra))
                if data or not items:
                    yield data or reply.ping()
        except Exception as error:
            yield reply.failed(error)
            return
        for data in reply.closing(include_usage, job.extra):
            yield data


async def _drain(job: Job) -> bool:
    async for _ in job.steps():
        pass
    return True
