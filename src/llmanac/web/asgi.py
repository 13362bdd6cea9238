"""Pure ASGI parts: the guard around the app, server-sent events, and cancelling work when the client has gone.

No `BaseHTTPMiddleware` here: it hides disconnects from the handlers and more than halves the rate of events.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmanac.web._errors import ApiError, json_error
from llmanac.web.hosts import Hosts

T = TypeVar("T")
OPEN = ("/", "/health")  # pages that need no key; the chat page asks for one
MAX_BODIES = 64 * 2**20
log = logging.getLogger(__package__)

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(data: Any) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}\n\n".encode()


def named_event(data: dict[str, Any]) -> bytes:
    """One server-sent event that has its `type` as its name."""
    return f"event: {data['type']}\n".encode() + event(data)


@dataclass
class Arriving:
    """size: bytes of a body that are here, until all of it is."""

    size: int = 0


class Guard:
    """What holds for every request: its host is this server, its key is known, its body is small and comes in time, no
    error is unsaid.

    Every response has a request id: the client's own where it sent one.

    Args:
        max_body: bytes of the largest body.
        body_seconds: for the whole body to arrive.
        max_bodies: bytes of all bodies that are arriving together.
        keys: of which every request but those of `OPEN` must have one; none: no request needs one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Hosts,
        max_body: int,
        body_seconds: float,
        max_bodies: int = MAX_BODIES,
        keys: Iterable[str] = (),
    ) -> None:
        self.max_bodies, self._arriving = max_bodies, 0
        self.app, self.hosts, self.max_body, self.body_seconds = app, hosts, max_body, body_seconds
        self.keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:  # one that is sent twice is a list: no host, origin or key that is known
            headers[name] = headers[name] + b", " + value if name in headers else value
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        shared = self.hosts.shares(origin)
        request_id = given if re.fullmatch(r"[\w.-]{1,128}", given) else f"req-{secrets.token_hex(12)}"
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = MutableHeaders(scope=message)
                own["x-request-id"] = request_id
                own["x-content-type-options"] = "nosniff"
                if shared:
                    own["access-control-allow-origin"] = origin
                    own["access-control-expose-headers"] = "x-request-id, x-llmanac-ignored, retry-after"
                    own["vary"] = "origin"
            await send(message)

        # a browser's question before a request has no key, and is answered by headers alone
        preflight = shared and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if (refusal := self._refusal(headers, scope["path"], preflight)) is not None:
            await json_error(refusal, scope["path"])(scope, receive, named)
            return
        if preflight:
            await Response(status_code=204, headers=_preflight(headers))(scope, receive, named)
            return
        body = Arriving()
        try:
            await self.app(scope, self._limited(receive, body), named)
        except Exception as error:
            if started:
                raise
            response = json_error(error, scope["path"])
            if response.status_code == 500:  # others say in the answer what is wrong; they must not fill the log
                log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            await response(scope, receive, named)
        finally:
            self._arriving -= body.size

    def _refusal(self, headers: dict[bytes, bytes], path: str, preflight: bool) -> ApiError | None:
        """What is wrong with a request by its headers alone."""
        host = headers.get(b"host")
        if host is not None and not self.hosts.allows(host.decode("latin-1")):
            shown = host.decode("latin-1")[:100]
            message = f"host: this server is not called {shown!r}; if it is, start it with --allow-host and that name"
            return ApiError(403, message, code="host_not_allowed")
        origin = headers.get(b"origin", b"").decode("latin-1")
        site = _site(origin)
        if site is not None and not self.hosts.allows(site) and not self.hosts.shares(origin):
            message = (
                f"origin: pages of {site[:100]!r} may not use this server; --allow-origin and its origin lets them"
            )
            return ApiError(403, message, code="origin_not_allowed")
        if self.keys and path not in OPEN and not preflight and not self._knows(headers):
            message = "send one of this server's API keys, as the header authorization: Bearer KEY, or as x-api-key"
            return ApiError(401, message, code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        return self._too_large() if length.isdigit() and int(length) > self.max_body else None

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the headers have a key, of OpenAI's clients or of Anthropic's; takes as long for every wrong one."""
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key", b"")
        given = hashlib.sha256(key.strip()).digest()
        found = [hmac.compare_digest(given, own) for own in self.keys]
        return bool(key) and any(found)

    def _limited(self, receive: Receive, body: Arriving) -> Receive:
        """`receive`, with the limits of a body."""
        whole = False
        deadline = asyncio.get_running_loop().time() + self.body_seconds

        async def limited() -> Message:
            nonlocal whole
            try:
                async with asyncio.timeout_at(None if whole else deadline):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, f"the body was not here after {self.body_seconds:g} s", code="timeout") from None
            if message["type"] == "http.request":
                whole = not message.get("more_body", False)
                size = len(message.get("body", b""))
                if body.size + size > self.max_body:
                    raise self._too_large()
                if self._arriving + size > self.max_bodies:
                    raise ApiError(503, "the server is reading too many requests; try again in a moment", code="busy")
                body.size += size
                self._arriving += size
                if whole:  # what follows has bounds of its own: threads, the queue
                    self._arriving -= body.size
                    body.size = 0
            return message

        return limited

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.max_body} bytes", code="body_too_large")


def _preflight(headers: dict[bytes, bytes]) -> dict[str, str]:
    """What a browser is told before it sends a request of another site's page."""
    asked = headers.get(b"access-control-request-headers", b"").decode("latin-1")
    names = asked if re.fullmatch(r"[\w, -]{1,1000}", asked, re.ASCII) else "authorization, content-type, x-api-key"
    allow = {"access-control-allow-methods": "GET, POST, DELETE", "access-control-allow-headers": names}
    return {**allow, "access-control-max-age": "600"}


def _site(origin: str) -> str | None:
    """The host of a page that sends a request; None where no web page of a site does (tools, browser extensions)."""
    scheme, _, host = origin.partition("://")
    if "," in origin:  # two headers
        return origin
    return host if scheme.lower() in ("http", "https") else "null" if origin == "null" else None


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone (the body must have been read)."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None where the client went away first; then `work` is cancelled."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for other in (task, watch):
            other.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


class EventStream(Response):
    """A response of server-sent events that ends as soon as the client goes away.

    `on_close` runs however it ends, also where not one event was produced.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], *, on_close: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._events, self._on_close = events, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def produce() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await unless_disconnected(receive, produce())
        finally:
            self._on_close()
