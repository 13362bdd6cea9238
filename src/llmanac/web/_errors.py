"""Errors in the shape of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llmanac.core.errors import DataError, LlmanacError, RequestError

RETRY_SECONDS = 1
OLLAMA = tuple(f"/api/{name}" for name in ("chat", "generate", "embed", "show", "tags", "ps", "version"))

_PHRASES = {
    404: "no such page: {method} {path}; the API is below /v1, the chat page is /",
    405: "{path} does not take {method}",
}


class Busy(LlmanacError):
    """The queue is full; try again later."""


class Late(LlmanacError):
    """The request's time is over."""


class ShuttingDown(LlmanacError):
    """The server is being stopped."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down; send the request again later")


class ApiError(Exception):
    """An error that goes to the client as it is; `param` is the field that its message names."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param or LlmanacError(message).field, code


def error_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for any error. What is not meant for the user is not shown to the client; it is in the log."""
    param = code = None
    message = str(error)
    if isinstance(error, ApiError):
        status, param, code = error.status, error.param, error.code
    elif isinstance(error, Busy):
        status, code = 429, "server_busy"
    elif isinstance(error, Late):
        status, code = 504, "timeout"
    elif isinstance(error, (RequestError, DataError)):
        status, param, code = 400, error.field, error.code
    elif isinstance(error, ValidationError):
        status = 400
        param, message = _first_problem(error)
    elif isinstance(error, ShuttingDown):
        status, code = 503, "shutting_down"
    elif isinstance(error, LlmanacError):
        status = 500
    else:
        status, message = 500, "the server failed on this request; its log says why"
    kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _first_problem(error: ValidationError) -> tuple[str | None, str]:
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        return None, f"the body is not JSON: {first['ctx']['error']}"
    field = str(first["loc"][0]) if first["loc"] else None
    if field is None:
        return None, "the body must be a JSON object"
    path = ".".join(str(part) for part in first["loc"])
    alike = [p for p in problems if p["loc"][:1] == first["loc"][:1]]
    if len(alike) > 1 and field in _UNIONS:  # one problem for each form that the field may have
        path = field
        bound = next((p for p in alike if p["type"].endswith(("_long", "_short", "_equal", "_than"))), None)
        deepest = max(alike, key=lambda problem: len(problem["loc"]))
        if bound is None and isinstance(deepest["loc"][-1], str) and len(deepest["loc"]) > 3:  # a field of an item
            path = ".".join(str(part) for part in deepest["loc"] if not re.search(r"^str$|[^a-z_0-9]", str(part)))
        elif bound is None:
            return field, f"{field}: expected {_UNIONS[field]}"
        first = bound or deepest
    message = first["msg"]
    return path, f"{path}: {message[0].lower()}{message[1:]}"


_UNIONS = {
    "prompt": "a string, or a list (not empty) of strings, of token ids, or of lists of token ids",
    "stop": "a string or a list of at most 4 strings, none of them empty or longer than 1000 characters",
    "input": "a string, or a list (not empty) of strings, of token ids, or of lists of token ids",
    "tool_choice": 'none, auto, required, {"type": "function", ...} or {"type": "allowed_tools", ...}',
    "messages": 'a list of {"role": ..., "content": text} objects',
}


def messages_error(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for any error in Anthropic's form."""
    status, body = error_body(error)
    kind = _MESSAGES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return status, {"type": "error", "error": {"type": kind, "message": body["error"]["message"]}}


def ollama_error(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body for any error in Ollama's form."""
    status, body = error_body(error)
    return status, {"error": body["error"]["message"]}


_MESSAGES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def json_error(error: Exception, path: str = "") -> JSONResponse:
    """The response for an error that comes before any other output, in the form of the API that the path is of."""
    form = messages_error if path.startswith("/v1/messages") else error_body
    status, body = (ollama_error if path in OLLAMA else form)(error)
    headers = {
        401: {"www-authenticate": "Bearer"},
        408: {"connection": "close"},
        429: {"retry-after": str(RETRY_SECONDS)},
        503: {"retry-after": str(RETRY_SECONDS)},
    }.get(status)
    return JSONResponse(body, status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Answer every error that is known in this shape; the guard around the app answers the others."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return json_error(error, request.url.path)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        phrase = _PHRASES.get(error.status_code, str(error.detail))
        message = phrase.format(method=request.method, path=request.url.path)
        response = json_error(ApiError(error.status_code, message), request.url.path)
        response.headers.update(error.headers or {})
        return response

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # the client went away; nobody reads it

    app.add_exception_handler(ClientDisconnect, gone)
    for kind in (ApiError, LlmanacError, ValidationError):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, http)
