"""The page on which people rate answers: a store of ratings behind the server's own guard, on the loopback address.

    app = create_rating_app(store, token="...")          GET /, GET /api/task, POST /api/rate

The page itself has no secret; every other path needs the token, which the page takes from the part of its address
behind `#`, that browsers send to nobody. What it gets names no model.
"""

import asyncio
import contextlib
import json
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from llmanac.core import interrupts
from llmanac.evaluate.ratings import RatingStore
from llmanac.web._errors import ApiError
from llmanac.web.asgi import Guard
from llmanac.web.hosts import Hosts, claim_port
from llmanac.web.serve import SAY, config
from llmanac.web.server import PAGE_POLICY

PAGE = Path(__file__).with_name("rate.html")
MAX_BODY = 4096
BODY_SECONDS = 10.0
MOST_NAME = 64


def create_rating_app(store: RatingStore, *, token: str, hosts: Hosts | None = None) -> ASGIApp:
    """The page and its two calls; every error is JSON as the server's own are."""
    lock = threading.Lock()

    def called(work: Callable[..., Any], *arguments: Any) -> Any:
        with lock:
            return work(*arguments)

    async def page(_: Request) -> Response:
        headers = {
            "content-security-policy": PAGE_POLICY,
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
        }
        return HTMLResponse(PAGE.read_text("utf-8"), headers=headers)

    async def task(http: Request) -> Response:
        number = http.query_params.get("number")
        if number is not None and not (number.isascii() and number.isdigit() and len(number) < 10):
            raise ApiError(400, f"number: {number[:40]!r} is not a number from 0")
        found = await asyncio.to_thread(
            called, store.shown, _rater(http.query_params.get("rater")), None if number is None else int(number)
        )
        return JSONResponse(found, headers={"cache-control": "no-store"})

    async def rate(http: Request) -> Response:
        if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "send the body as JSON, with the header content-type: application/json")
        try:
            asked = json.loads(await http.body())
        except (ValueError, RecursionError):
            raise ApiError(400, "the body is not JSON") from None
        if not isinstance(asked, dict) or set(asked) != {"rater", "number", "value"}:
            raise ApiError(400, "the body must be an object with rater, number and value")
        rater = _rater(asked["rater"])
        await asyncio.to_thread(called, store.rate, rater, asked["number"], asked["value"])
        return JSONResponse(await asyncio.to_thread(called, store.shown, rater, None))

    routes = [Route("/", page), Route("/api/task", task), Route("/api/rate", rate, methods=["POST"])]
    hosts = hosts or Hosts()
    return Guard(Router(routes), hosts=hosts, max_body=MAX_BODY, body_seconds=BODY_SECONDS, keys=[token])


def _rater(name: Any) -> str:
    """Raises ApiError for what is no name."""
    text = name.strip() if isinstance(name, str) else ""
    if not text or len(text) > MOST_NAME or not text.isprintable():
        raise ApiError(400, f"rater: give a name of 1 to {MOST_NAME} printable characters")
    return text


def serve_ratings(store: RatingStore, *, port: int = 0, report: Callable[[str], object] = SAY) -> None:
    """Serve the page on the loopback address until Ctrl-C.

    Raises:
        LlmanacError: the port cannot be claimed.
    """
    token = secrets.token_urlsafe(24)
    with contextlib.closing(claim_port("127.0.0.1", port)) as claimed:
        server = uvicorn.Server(config(create_rating_app(store, token=token), log_level="warning"))
        report(f"Rate {len(store.tasks):,} answers at http://127.0.0.1:{claimed.getsockname()[1]}/#{token}")
        report("Ratings are kept as they are given. Press Ctrl-C when everybody is done.")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
            server.run(sockets=[claimed])
        interrupts.answered()
