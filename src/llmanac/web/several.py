"""Several models behind one address: a request goes to the model that it names, which is loaded when first asked.

Models that nobody uses are unloaded, the one that was used longest ago first, where another has no room in the memory
that models may take together. A model's size is that of its files.
"""

import asyncio
import contextlib
import gc
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.web._errors import ApiError, Busy, ShuttingDown
from llmanac.web._metrics import joined
from llmanac.web._pool import Pool
from llmanac.web._service import KeptReplies, Service, plain_name
from llmanac.web.asgi import unless_disconnected
from llmanac.web.server import pages

PATIENCE = 30.0  # seconds that a request waits for the others' models to be done with
SHORT = 2**16  # bytes of a body that are parsed at once, in the event loop

log = logging.getLogger(__package__)


@dataclass
class Slot:
    """A model that may be loaded.

    Attributes:
        name: what clients ask for; further: other names for it, of its adapters.
        load: makes its service; may take seconds.
        size: bytes of its files.
        service: once it is loaded.
        coming: what loads it, while it is loaded.
        running: requests that it answers, or that wait for it.
        used: when it was last asked (`time.monotonic`).
    """

    name: str
    load: Callable[[], Service]
    size: int = 0
    further: tuple[str, ...] = ()
    service: Service | None = None
    coming: asyncio.Task[Exception | None] | None = None
    running: int = 0
    used: float = 0.0
    cards: list[dict[str, Any]] = field(default_factory=list)


class Several:
    """The app of one or several models.

    Args:
        slots: the models; the first answers what names none.
        memory: bytes that models which are loaded may take together; None: no bound.
        waiting: requests that may wait for a model to be loaded.

    Raises:
        RequestError: two models of one name, or one that is larger than the memory.
    """

    def __init__(self, slots: list[Slot], memory: int | None = None, waiting: int = 64) -> None:
        names = [name for slot in slots for name in (slot.name, *slot.further)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise RequestError(f"two models are called {twice!r}; rename a folder, or give an adapter another name")
        for slot in slots:
            if memory is not None and slot.size > memory:
                sizes = f"{slot.size / 2**20:,.0f} MiB are more than the {memory / 2**20:,.0f} of --memory"
                raise RequestError(f"{slot.name}: its files of {sizes}")
        self.slots, self.memory, self.waiting = slots, memory, waiting
        self.draining = False
        self.kept, self.created = KeptReplies(), int(time.time())
        self._pages = pages()
        self._of = {name: slot for slot in slots for name in (slot.name, *slot.further)}
        self._turn = asyncio.Lock()
        self._loader = Pool(threads=1, seconds=math.inf, name="loading")  # no exit waits for its thread
        self._loader.start()
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
        for slot in self.slots:
            if slot.coming is not None:
                slot.coming.cancel()
        for service in self.services:
            service.worker.drain()

    def close(self) -> None:
        """End all threads; what is not over ends with an error."""
        self._loader.close()
        for service in self.services:
            service.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["about"] = self
        if scope["method"] in ("GET", "HEAD"):  # loads nothing
            scope["service"] = next(iter(self.services), None)
            await self._pages(scope, receive, send)
            return
        slot, again = self.slots[0], receive
        if len(self.slots) > 1:
            again, name = await _peeked(receive)
            loaded = next((slot for slot in self.slots if slot.service is not None), slot)
            slot = self._of.get(plain_name(name), loaded)
        slot.running += 1  # from here on it is not unloaded
        try:
            if (service := await self._loaded(slot, receive)) is not None:
                scope["service"] = service
                await self._pages(scope, again, send)
        finally:
            slot.running -= 1
            self._freed.set()

    def named(self, loaded: bool = False) -> list[str]:
        """The names of all models, or of those that are loaded."""
        shown = [slot for slot in self.slots if slot.service is not None or not loaded]
        return [name for slot in shown for name in (slot.name, *slot.further)]

    def metrics(self) -> str:
        return joined([service.metrics() for service in self.services])

    def health(self) -> dict[str, Any]:
        each = [service.health() for service in self.services]
        if len(self.slots) == 1 and each:
            return each[0]
        state: dict[str, Any] = {"status": "draining" if self.draining else "ok"}
        running, waiting = self.counts
        models = {slot.name: "idle" if slot.service is None else "loaded" for slot in self.slots}
        lost = next((found for found in each if found["status"] == "lost"), state)
        return {**lost, "running": running, "waiting": waiting, "models": models}

    def cards(self) -> list[dict[str, Any]]:
        """What /v1/models lists; of a model that was never loaded its name alone."""
        bare = {"object": "model", "created": self.created, "owned_by": "llmanac"}
        unseen = ([{"id": name, **bare} for name in (slot.name, *slot.further)] for slot in self.slots)
        found = [card for slot, own in zip(self.slots, unseen, strict=True) for card in slot.cards or own]
        return list({card["id"]: card for card in found}.values())

    async def _loaded(self, slot: Slot, receive: Receive) -> Service | None:
        """The service of a model that is in use, loaded if it is not; None where the client goes away meanwhile."""
        if slot.service is None:
            if self.draining:
                raise ShuttingDown()
            if slot.running > self.waiting:
                raise Busy(f"{slot.running - 1} requests wait for {slot.name!r} to be loaded; try again in a moment")
            if slot.coming is None:
                slot.coming = asyncio.create_task(self._bring(slot))
            error = await unless_disconnected(receive, asyncio.shield(slot.coming))
            if error is not None:
                raise error
        slot.used = time.monotonic()
        return slot.service

    async def _bring(self, slot: Slot) -> Exception | None:
        """Load a model for all that wait for it; returns what kept it from being loaded."""
        try:
            async with self._turn:
                if slot.running:  # else nobody waits any more
                    await self._make_room(slot)
                    await self._loader.run(lambda _: self.load(slot))
            return None
        except asyncio.CancelledError:
            return ShuttingDown()
        except Busy as error:
            return error
        except Exception as error:  # whatever a file does wrong is no fault of the request
            known = isinstance(error, LlmanacError)  # and says what is wrong with which file
            log.error("%s cannot be loaded: %s", slot.name, error, exc_info=None if known else error)
            message = f"model: {slot.name!r} cannot be loaded; the server's log says why"
            return ApiError(503, message, code="model_not_loaded")
        finally:
            slot.coming = None

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
