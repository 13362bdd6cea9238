"""The guide in a browser on this machine: pages, answers checked in the sandbox, reviews kept.

A page of any site can send a form to the loopback address, and this app runs code. So the host and the origin are
checked (`web/asgi.py`), every start has a token that each form carries, and the content security policy allows nothing
that is not this server's. Answers are checked one after the other; who comes while several wait is told so.
"""

import asyncio
import base64
import contextlib
import hmac
import json
import re
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from urllib.parse import parse_qs

import uvicorn
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmanac.core import interrupts
from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.extras import naming
from llmanac.core.progress import Report
from llmanac.guide import plan
from llmanac.guide.demos import Models, demos
from llmanac.guide.exercise import MOST, WALL, Verdict, check, exercises
from llmanac.guide.mock import Graded, Grader
from llmanac.guide.pages import pages
from llmanac.guide.progress import RATINGS, Review, ReviewLog
from llmanac.guide.question import RESULTS, questions
from llmanac.guide.site import ASKED, ASSETS, Site
from llmanac.sandbox.pool import Sandbox, SandboxError
from llmanac.web.asgi import Guard
from llmanac.web.hosts import Hosts, claim_port
from llmanac.web.serve import config

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
KINDS = ("application/x-www-form-urlencoded", "multipart/form-data")
MAX_BODY = 9 * MOST + 4096  # bytes of a form: a character of an answer may take nine, three of UTF-8 as %E4 each
MAX_UPLOAD = 3 << 20  # of one with files
BODY_SECONDS = 10.0
WAITING = 4  # answers that may wait for the sandbox, and demos for the ones before
DEMO_WALL = 90.0  # seconds for a demo with its waiting and the loading of a model
FIELDS = 40
FORMS = ("review", "placement", "plan", "mock", "import")


class Guide:
    """The app, without its guard; an ASGI application.

    Args:
        progress: where reviews are kept.
        token: what forms carry; drawn where it is not given.
        models: what demos run on.
        grader: the chat model that grades mock interviews, as `load_answerer` takes it; empty for none.
    """

    def __init__(self, progress: ReviewLog, token: str = "", models: Models | None = None, grader: str = "") -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.progress = progress
        self.site = Site(self.token, progress, models or Models())
        self.site.grader = Grader(grader, progress) if grader else None
        self._demos = ThreadPoolExecutor(1, thread_name_prefix="demo")  # one at a time: they share the model
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *given]}
            await send(message)

        request = Request(scope, receive)
        response = await self.answer(request)
        await response(scope, receive, hardened)

    async def answer(self, request: Request) -> Response:
        """The response to a request that the guard let through."""
        path = request.url.path.lstrip("/") or "index.html"
        if request.method == "POST":
            return await self._post(path, request)
        if request.method not in ("GET", "HEAD"):
            return self._message(405, f"{request.method} is not for this page")
        if path in ASSETS:
            kind = "text/css" if path.endswith(".css") else "text/javascript"
            return Response(ASSETS[path].read_bytes(), media_type=kind)
        if path == "progress.json":
            headers = {"content-disposition": 'attachment; filename="progress.json"'}
            return JSONResponse(self.progress.document(), headers=headers)
        if path.startswith("evidence/") and path.endswith(".svg"):
            return self._figure(path)
        params = dict(request.query_params)
        try:
            with naming("this page"):
                text = await asyncio.to_thread(self.site.page, path, query=params.get("query", ""), params=params)
        except LlmanacError as error:
            return self._message(500, str(error))
        return HTMLResponse(text) if text is not None else self._message(404, f"there is no page {path[:100]!r}")

    def _figure(self, path: str) -> Response:
        """A figure of the evidence, by the names that there are."""
        _, study, *rest = path.split("/")
        known = {file.name: file for file in (RESULTS / study).glob("*.svg")} if study.isidentifier() else {}
        if len(rest) != 1 or rest[0] not in known:
            return self._message(404, "there is no such figure")
        return Response(known[rest[0]].read_bytes(), media_type="image/svg+xml")

    async def _post(self, path: str, request: Request) -> Response:
        sent = request.headers.get("content-type", "")
        kind = sent.partition(";")[0].strip().lower()
        if kind not in KINDS[: 2 if path.startswith("demo/") or path == "import" else 1]:
            return self._message(415, f"a form of this guide is sent as {KINDS[0]}")
        body = await request.body()
        if kind == KINDS[0] and len(body) > MAX_BODY:
            return self._message(413, f"a form has at most {MAX_BODY:,} bytes")
        try:
            form = _fields(body) if kind == KINDS[0] else _parts(sent, body)
        except (UnicodeDecodeError, ValueError):
            return self._message(400, "the form cannot be read")
        if not hmac.compare_digest(form.get("token", "").encode(), self.token.encode()):
            return self._message(403, "the form is not from this start of the guide; open the page again")
        name = path.removesuffix(".html").partition("/")[2]
        try:
            if path.startswith("exercise/") and name in exercises():
                return await self._check(name, path, form.get("code", ""))
            if path.startswith("demo/") and name in demos():
                return await self._demo(name, path, form)
            if path.startswith("question/") and name in questions():
                return self._answer(name, path, form.get("given", ""))
            if path == "mock":  # a model may grade it
                async with self._turn:
                    return await asyncio.to_thread(self._mock, form)
            if path in FORMS:
                return getattr(self, f"_{path}")(form)
        except LlmanacError as error:
            return self._message(500, str(error))
        return self._message(404, f"there is no form at {path[:100]!r}")

    async def _check(self, name: str, path: str, code: str) -> Response:
        if len(code) > MOST:
            return self._message(413, f"an answer has at most {MOST:,} characters")
        if self._waiting >= WAITING:
            return self._message(429, "other answers are being checked; send yours again in a few seconds")
        self._waiting += 1
        try:
            async with self._turn:
                code = code.replace("\r\n", "\n")  # as browsers send lines
                verdict = await asyncio.to_thread(_checked, name, code)
        except SandboxError as error:
            return self._message(503, f"answers cannot be checked here: {error}")
        finally:
            self._waiting -= 1
        self.progress.add(f"exercise/{name}", RATINGS["good" if verdict.passed else "again"])
        return HTMLResponse(self.site.page(path, verdict=verdict, code=code))

    async def _demo(self, name: str, path: str, form: dict[str, str]) -> Response:
        """A demo in the one thread that runs them, while the loop answers others; it ends when its time is up."""
        if self._waiting >= WAITING:
            return self._message(429, "other demos and answers are waiting; send yours again in a few seconds")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        work = self._demos.submit(self._shown, name, path, form)
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._left))
        try:
            return HTMLResponse(await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(work)), DEMO_WALL))
        except TimeoutError:
            return self._message(503, "the demo is still waiting or loading its model; try it again in a minute")

    def _left(self) -> None:
        self._waiting -= 1

    def _shown(self, name: str, path: str, form: dict[str, str]) -> str | None:
        try:
            return self.site.page(path, given=form, parts=demos()[name].run(form, self.site.models))
        except LlmanacError as error:
            return self.site.page(path, given=form, error=str(error))

    def _review(self, form: dict[str, str]) -> Response:
        item, rating = form.get("item", ""), form.get("rating", "")
        kind, _, name = item.partition("/")
        if rating not in RATINGS or kind != "question" or name not in questions():
            return self._message(400, "a review needs a question and a rating")
        self.progress.add(item, RATINGS[rating])
        return RedirectResponse("/index.html", status_code=303)

    def _answer(self, name: str, path: str, given: str) -> Response:
        """The part of a question that the machine checks."""
        question = questions()[name]
        if question.check is None or len(given) > 100:
            return self._message(400, "this question has no part that is checked, or the answer is too long")
        try:
            right, what = question.check.grade(given, question.figures())
        except SpecError as error:
            return HTMLResponse(self.site.page(path, told=str(error)))
        return HTMLResponse(self.site.page(path, told=f"{'Right' if right else 'Not right'}: {what}"))

    def _mock(self, form: dict[str, str]) -> Response:
        asked = [questions()[name] for name in form.get("asked", "").split()[:ASKED] if name in questions()]
        if not asked:
            return self._message(400, "no question was asked")
        grader = self.site.grader if form.get("by") == "model" else None
        if grader is not None and grader.usable:
            given = {q.name: form.get(f"answer/{q.name}", "") for q in asked}
            try:
                graded = [grader.grade(q, given[q.name]) for q in asked]
            except LlmanacError as error:  # 45 minutes of writing must not be lost with the model
                return HTMLResponse(self.site.page("mock.html", asked=asked, given=given, error=str(error)))
        else:
            graded = [Graded(q, frozenset(n for n in range(len(q.rubric)) if f"{q.name}/{n}" in form)) for q in asked]
        now = datetime.now(UTC)
        self.progress.merge([Review(f"question/{g.question.name}", now, RATINGS[g.rating]) for g in graded])
        return HTMLResponse(self.site.page("mock.html", graded=graded))

    def _import(self, form: dict[str, str]) -> Response:
        """Reviews from a file that /progress.json gave."""
        try:
            data = json.loads(base64.b64decode(form.get("file", "")))
            if not isinstance(data, dict):
                raise ValueError("no object")
            self.progress.add_document(data, "the file")
        except (ValueError, RecursionError, DataError) as error:
            return self._message(400, f"the file is no export of a progress: {error}")
        return RedirectResponse("/index.html", status_code=303)

    def _placement(self, form: dict[str, str]) -> Response:
        asked = {question.name for question in plan.placement()}
        given = {name: form[name] for name in asked if name in form}
        if not given or not RATINGS.keys() >= set(given.values()):
            return self._message(400, "rate at least one answer: again, hard, good or easy")
        now = datetime.now(UTC)
        self.progress.merge([Review(f"question/{name}", now, RATINGS[rating]) for name, rating in given.items()])
        return RedirectResponse("/plan.html", status_code=303)

    def _plan(self, form: dict[str, str]) -> Response:
        try:
            day = date.fromisoformat(form.get("day", ""))
        except ValueError:
            return self._message(400, "the day of the interview is written as 2027-01-31")
        if not 0 <= (day - date.today()).days <= plan.MOST_DAYS:
            return self._message(400, f"the day of the interview is from today to {plan.MOST_DAYS} days ahead")
        self.progress.set_interview(day)
        return RedirectResponse("/plan.html", status_code=303)

    def _message(self, status: int, text: str) -> Response:
        return Response(f"{text}\n", status_code=status, media_type="text/plain")


def _fields(body: bytes) -> dict[str, str]:
    """The fields of a form."""
    found = parse_qs(body.decode("ascii"), max_num_fields=FIELDS, errors="strict")
    return {name: values[0] for name, values in found.items()}


def _parts(sent: str, body: bytes) -> dict[str, str]:
    """The fields of a form with files, which become base64, a line each. Raises ValueError for another body."""
    boundary = re.search(r'boundary="?([\w\'()+,./:=?-]{1,70})"?', sent)
    if boundary is None:
        raise ValueError("no boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode("ascii"))
    if len(pieces) > FIELDS + 2 or not pieces[-1].startswith(b"--"):
        raise ValueError("too many parts, or no end")
    form: dict[str, str] = {}
    for piece in pieces[1:-1]:
        head, _, data = piece.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="(\w{1,60})"', head)
        if name is None:
            raise ValueError("a part without a name")
        key = name[1].decode("ascii")
        if b"filename=" not in head:
            form.setdefault(key, data.decode("utf-8"))
        elif data:  # a browser sends an empty file where none was chosen
            form[key] = f"{form.get(key, '')}{base64.b64encode(data).decode()}\n"
    return form


def _checked(name: str, code: str) -> Verdict:
    with Sandbox(1, wall=WALL, arrays=True) as sandbox:
        return check(exercises()[name], code, sandbox)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def create_app(
    progress: ReviewLog, *, token: str = "", host: str = "127.0.0.1", models: Models | None = None, grader: str = ""
) -> ASGIApp:
    """The guide behind its guard: hosts and origins of this machine, small bodies that come in time."""
    app = Guide(progress, token, models, grader)
    return Guard(app, hosts=Hosts(host), max_body=MAX_UPLOAD, body_seconds=BODY_SECONDS)


def serve(
    progress: ReviewLog, *, port: int = 8090, model: str = "", grader: str = "", report: Report,
    ready: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Serve the guide on the loopback address until Ctrl-C; `model` is what demos run on, loaded when one needs it,
    `grader` what grades mock interviews.

    Raises LlmanacError where the port is taken.
    """
    with contextlib.closing(claim_port("127.0.0.1", port)) as claimed:
        address: tuple[str, int] = claimed.getsockname()[:2]
        app = create_app(progress, models=Models(model), grader=grader)
        pages()  # read once, before the first page is asked for
        report(f"The guide: http://{address[0]}:{address[1]}/ (this machine only). Press Ctrl-C to stop.")
        ready()
        _run(app, claimed)


def _run(app: ASGIApp, claimed: socket.socket) -> None:
    try:
        uvicorn.Server(config(app, log_level="warning")).run(sockets=[claimed])
    finally:
        interrupts.answered()
