"""Several models behind one address: a request goes to the model that it names, which is loaded when first asked.

Models that nobody uses are unloaded, the one that was used longest ago first, where another has no room in the memory
that models may take together. A model's size is that of its files.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from llmanac.core.errors import RequestError
from llmanac.web import _ollama
from llmanac.web._errors import Busy
from llmanac.web._kept import KeptReplies
from llmanac.web._metrics import joined
from llmanac.web._service import Service, plain_name
from llmanac.web.server import Answering, pages

PATIENCE = 30.0  # seconds that a request waits for the others' models to be done with
SHORT = 2**16  # bytes of a body that are parsed at once, in the event loop


@dataclass
class Slot:
    """A model that may be loaded.

    Attributes:
        name: what clients ask for; further: other names for it, of its adapters.
        load: makes its service; may take seconds.
        size: bytes of its files.
        service: once it is loaded.
        running: requests that it answers.
        used: when it was last asked (`time.monotonic`).
    """

    name: str
    load: Callable[[], Service]
    size: int = 0
    further: tuple[str, ...] = ()
    service: Service | None = None
    running: int = 0
    used: float = 0.0
    cards: list[dict[str, Any]] = field(default_factory=list)


class Several:
    """The app of one or several models.

    Args:
        slots: the models; the first answers what names none.
        memory: bytes that models which are loaded may take together; None: no bound.

    Raises:
        RequestError: two models of one name, or one that is larger than the memory.
    """

    def __init__(self, slots: list[Slot], memory: int | None = None) -> None:
        names = [name for slot in slots for name in (slot.name, *slot.further)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise RequestError(f"two models are called {twice!r}; rename a folder, or give an adapter another name")
        for slot in slots:
            if memory is not None and slot.size > memory:
                sizes = f"{slot.size / 2**20:,.0f} MiB are more than the {memory / 2**20:,.0f} of --memory"
                raise RequestError(f"{slot.name}: its files of {sizes}")
        self.slots, self.memory = slots, memory
        self.draining = False
        self.kept, self.created = KeptReplies(), int(time.time())
        self._pages = pages()
        self._of = {name: slot for slot in slots for name in (slot.name, *slot.further)}
        self._loading = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def services(self) -> list[Service]:
        """Those of the models that are loaded."""
        return [service for slot in self.slots if (service := slot.service) is not None]

    @property
    def counts(self) -> tuple[int, int]:
        """Requests that run, and requests that wait."""
        found = [service.worker.counts for service in self.services]
        return sum(running for running, _ in found), sum(waiting for _, waiting in found)

    def load(self, slot: Slot) -> None:
        """Load a model and start its threads."""
        service = slot.load()
        service.kept, service.names = self.kept, tuple(self._of)
        service.start()
        if self.draining:
            service.worker.drain()
        slot.service, slot.cards = service, service.cards()

    def drain(self) -> None:
        """Refuse new requests; those that are in progress go on."""
        self.draining = True
        for service in self.services:
            service.worker.drain()

    def close(self) -> None:
        """End all threads; what is not over ends with an error."""
        for service in self.services:
            service.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if len(self.slots) > 1 and scope["method"] in ("GET", "HEAD") and (own := self._about(path)) is not None:
            await own(scope, receive, send)
            return
        slot = self.slots[0]
        if len(self.slots) > 1:
            slot = next((slot for slot in self.slots if slot.service is not None), slot)
            if scope["method"] == "POST":
                receive, name = await _peeked(receive)
                slot = self._of.get(plain_name(name), slot)
            elif path.startswith("/v1/models/"):
                slot = self._of.get(plain_name(path.removeprefix("/v1/models/")), slot)
        async with self._held(slot) as service:
            await Answering(self._pages, service)(scope, receive, send)

    def _about(self, path: str) -> Response | None:
        """Pages about all models."""
        if path == "/v1/models":
            return JSONResponse({"object": "list", "data": self.cards()})
        if path in ("/api/tags", "/api/ps"):
            shown = [slot for slot in self.slots if path == "/api/tags" or slot.service is not None]
            names = [name for slot in shown for name in (slot.name, *slot.further)]
            return JSONResponse({"models": [_ollama.card(name, self.created) for name in names]})
        if path == "/metrics":
            pages = [service.worker.page(service.model_name) for service in self.services]
            return Response(joined(pages), media_type="text/plain; version=0.0.4")
        if path == "/health":
            running, waiting = self.counts
            lost = next((said for service in self.services if (said := service.engine.lost())), None)
            state = "lost" if lost else "draining" if self.draining else "ok"
            told = {"status": state, **({"message": lost} if lost else {})}
            states = {slot.name: "idle" if slot.service is None else "loaded" for slot in self.slots}
            about = {**told, "running": running, "waiting": waiting, "models": states}
            return JSONResponse(about, status_code=200 if state == "ok" else 503)
        return None

    def cards(self) -> list[dict[str, Any]]:
        """What /v1/models lists; of a model that was never loaded its name alone."""
        bare = {"object": "model", "created": self.created, "owned_by": "llmanac"}
        unseen = ([{"id": name, **bare} for name in (slot.name, *slot.further)] for slot in self.slots)
        found = [card for slot, own in zip(self.slots, unseen, strict=True) for card in slot.cards or own]
        return list({card["id"]: card for card in found}.values())

    @contextlib.asynccontextmanager
    async def _held(self, slot: Slot) -> AsyncIterator[Service]:
        """The service of a model, which is not unloaded meanwhile. Raises Busy where no room comes."""
        async with contextlib.AsyncExitStack() as waiting:
            if slot.service is None:
                await waiting.enter_async_context(self._loading)
            slot.running += 1
            try:
                if slot.service is None:
                    await self._make_room(slot)
                    await asyncio.to_thread(self.load, slot)
            except BaseException:
                slot.running -= 1
                raise
        try:
            slot.used = time.monotonic()
            assert slot.service is not None
            yield slot.service
        finally:
            slot.running -= 1
            self._freed.set()

    async def _make_room(self, slot: Slot) -> None:
        """Unload models until this one has room."""
        until = time.monotonic() + PATIENCE
        while self.memory is not None and self._taken() + slot.size > self.memory:
            idle = [other for other in self.slots if other.service is not None and not other.running]
            if idle:
                oldest = min(idle, key=lambda other: other.used)
                service, oldest.service = oldest.service, None  # who asks for it now waits for what is loaded here
                assert service is not None
                await asyncio.to_thread(service.close)
                del service
                gc.collect()  # an engine and its worker refer to one another
                continue
            self._freed.clear()
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                    await self._freed.wait()
            except TimeoutError:
                raise Busy(f"the models in use leave no room for {slot.name!r}; try again in a moment") from None

    def _taken(self) -> int:
        return sum(slot.size for slot in self.slots if slot.service is not None)


async def _peeked(receive: Receive) -> tuple[Receive, str]:
    """A whole body to be read again, and the model that it names; an empty text for none."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] != "http.request":  # the client has gone
            break
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    data = b"".join(parts)
    given: list[Message] = [{"type": "http.request", "body": data, "more_body": more}]

    async def again() -> Message:
        return given.pop() if given else await receive()

    return again, _model_of(data) if len(data) <= SHORT else await asyncio.to_thread(_model_of, data)


def _model_of(data: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict) and isinstance(found.get("model"), str):
            return str(found["model"])
    return ""
