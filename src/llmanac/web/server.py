"""The server: OpenAI's `/v1/completions` and `/v1/chat/completions` over one engine, and the chat page.

    app = create_app(Engine(model, tokenizer), model_name="quickstart")

Every request is checked before anything is queued; the queue is bounded (429 with retry-after beyond it); a client
that goes away takes its work with it; a failure after the headers is sent as an error event, since clients take a
stream that merely ends for a whole answer.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmanac import __version__
from llmanac.generate.engine import Engine
from llmanac.web import _errors, _messages, _ollama, _openapi, _prepare, _responses
from llmanac.web._embeddings import reranked, vectors
from llmanac.web._errors import ApiError
from llmanac.web._service import Prepared, Service, plain_name, unknown_model
from llmanac.web._wire import header_of
from llmanac.web.asgi import Guard
from llmanac.web.hosts import Hosts

MAX_BODY = 8 * 2**20  # bytes; more than the longest text takes, whatever way it is escaped
BODY_SECONDS = 30.0
PAGE = Path(__file__).with_name("page.html")
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(
    engine: Engine,
    *,
    max_body: int = MAX_BODY,
    body_seconds: float = BODY_SECONDS,
    hosts: Hosts | None = None,
    api_keys: Iterable[str] = (),
    **options: Any,
) -> FastAPI:
    """The ASGI app of one model.

    Args:
        max_body: bytes of the largest request body.
        body_seconds: for a request's body to arrive.
        hosts: the names that requests may give this server; the loopback's own where it is left out.
        api_keys: of which requests must have one, all but those of the chat page's text and of /health.
        options: see `Service`.
    """
    service = Service(engine, **options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = pages(lifespan)
    app.state.service = service
    app.add_middleware(Answering, service=service)
    keys = list(api_keys)
    app.add_middleware(Guard, hosts=hosts or Hosts(), max_body=max_body, body_seconds=body_seconds, keys=keys)
    return app


def pages(lifespan: Any = None) -> FastAPI:
    """All pages, for whoever guards them (`asgi.Guard`) and says which model's service answers (`Answering`).

    No page holds a service: FastAPI keeps pages for good, and a model can be unloaded.
    """
    app = FastAPI(
        title="llmanac", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    _errors.install(app)
    _api_routes(app)
    _dialect_routes(app)
    _other_routes(app)
    return app


class Served(Protocol):
    """What is served at an address: one model, or several."""

    created: int

    def cards(self) -> list[dict[str, Any]]: ...

    def named(self, loaded: bool = False) -> list[str]: ...

    def metrics(self) -> str: ...

    def health(self) -> dict[str, Any]: ...


class Answering:
    """Names the service that answers a request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["service"] = scope["about"] = self.service
        await self.app(scope, receive, send)


def of(http: Request) -> Service:
    """The service that answers a request. Raises ApiError (503) where no model is loaded."""
    found: Service | None = http.scope["service"]
    if found is None:
        raise ApiError(503, "no model is loaded; ask one first", code="model_not_loaded")
    return found


def about(http: Request) -> Served:
    """What the address serves."""
    found: Served = http.scope["about"]
    return found


# pages that read a body: what makes of it a job or a reply, and the pool of the service where it does so
POSTS: dict[str, tuple[Callable[[Service, bytes, float], Any], str]] = {
    "/v1/completions": (_prepare.completion, "pool"),
    "/v1/chat/completions": (_prepare.chat, "templates"),
    "/v1/embeddings": (vectors, "embeddings"),
    "/v1/rerank": (reranked, "embeddings"),
    "/infill": (_prepare.infill, "pool"),
    "/v1/responses": (_responses.responses, "templates"),
    "/v1/messages": (_messages.messages, "templates"),
    "/v1/messages/count_tokens": (_messages.count, "templates"),
    "/api/chat": (_ollama.chat, "templates"),
    "/api/generate": (_ollama.generate, "templates"),
    "/api/embed": (_ollama.embed, "embeddings"),
    "/api/show": (_ollama.show, "pool"),
    "/tokenize": (_prepare.tokens, "pool"),
    "/detokenize": (_prepare.text_of_tokens, "pool"),
}


def _post(app: FastAPI, path: str, prepare: Callable[[Service, bytes, float], Any], pool: str) -> None:
    @app.post(path)
    async def answer(http: Request) -> Response:
        service = of(http)
        found = await service.read(http, prepare, getattr(service, pool))
        if isinstance(found, Prepared):
            return await service.respond(http, found)
        reply, ignored = found
        return JSONResponse(reply, headers=header_of(ignored))


def _api_routes(app: FastAPI) -> None:
    for path, (prepare, pool) in POSTS.items():
        _post(app, path, prepare, pool)

    @app.get("/v1/models")
    async def models(http: Request) -> dict[str, Any]:
        return {"object": "list", "data": about(http).cards()}

    @app.get("/v1/models/{name:path}")
    async def model(http: Request, name: str) -> dict[str, Any]:
        known = {plain_name(card["id"]): card for card in about(http).cards()}
        if plain_name(name) not in known:
            raise unknown_model(name, known)
        return known[plain_name(name)]


def _dialect_routes(app: FastAPI) -> None:
    """The same model in the forms of other APIs."""

    @app.api_route("/v1/responses/{name}", methods=["GET", "DELETE"])
    async def kept_response(http: Request, name: str) -> dict[str, Any]:
        service = of(http)
        reply: dict[str, Any] = _responses.kept_reply(service, name).reply
        if http.method == "GET":
            return reply
        service.kept.forget(name)
        return {"id": name, "object": "response", "deleted": True}

    @app.get("/api/tags")
    @app.get("/api/ps")
    async def ollama_tags(http: Request) -> dict[str, Any]:
        names = about(http).named(loaded=http.url.path == "/api/ps")
        return {"models": [_ollama.card(name, about(http).created) for name in names]}

    @app.get("/api/version")
    async def ollama_version(http: Request) -> dict[str, str]:
        return {"version": __version__}


def _other_routes(app: FastAPI) -> None:
    @app.get("/health")
    async def health(http: Request) -> Any:
        found = about(http).health()
        return JSONResponse(found, status_code=200 if found["status"] == "ok" else 503)

    @app.get("/metrics")
    async def metrics(http: Request) -> Response:
        return Response(about(http).metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(http: Request) -> dict[str, Any]:
        return _openapi.document(app.title, of(http))

    @app.get("/version")
    async def version(http: Request) -> dict[str, str]:
        return {"version": __version__}

    @app.get("/", response_class=HTMLResponse)
    async def page(http: Request) -> HTMLResponse:
        return HTMLResponse(PAGE.read_text("utf-8"), headers={"content-security-policy": PAGE_POLICY})

    @app.get("/tokenizer_info")
    async def tokenizer_info(http: Request) -> dict[str, Any]:
        tokenizer = of(http).engine.tokenizer
        if tokenizer is None:
            raise ApiError(404, "this server has no tokenizer")
        names = {i: text for text, i in tokenizer.special_tokens.items()}
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        return {
            **{f"{k}_token": None if v is None else names.get(v) for k, v in ids.items()},
            "chat_template": tokenizer.chat_template,
        }
