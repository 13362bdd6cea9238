"""uvicorn with deadlines for what a client begins to send and never finishes."""

import asyncio
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmanac.web._errors import ApiError, json_error

HEAD_SECONDS = 10.0  # for a request's headers
LINGER_SECONDS = 3.0  # how long a client that was answered early may go on sending
KEEP_ALIVE_SECONDS = 15
HEAD_BYTES = 64 * 1024


class Protocol(H11Protocol):
    """HTTP/1.1 where a request's headers must arrive in time, and an answered client cannot go on sending for ever.

    The deadline of a body is the `Guard`'s, which knows whether anybody reads it.
    """

    head_seconds = HEAD_SECONDS
    linger_seconds = LINGER_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head: asyncio.TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.our_state is not h11.IDLE:
            self._have_head()
        elif self._head is None and not self.transport.is_closing():  # another request on a kept connection
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(self.linger_seconds, self._hang_up)

    def _hang_up(self) -> None:
        if self.conn.our_state is h11.DONE:  # still behind the answer, and the body is not at its end
            self.transport.close()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self.head_seconds, self._too_slow)

    def _have_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        if self.transport.is_closing() or self.conn.our_state is not h11.IDLE:
            return
        if self.conn.trailing_data[0]:
            self._refuse(
                ApiError(408, f"the headers were not here after {self.head_seconds:g} s; send the request at once")
            )
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "this is not an HTTP/1.1 request that can be read"))
        self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answer what never became a request."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        response = json_error(error)
        headers = [*response.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=response.status_code, headers=headers)
        parts = (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))


def config(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        server_header=False,
        log_config=None,  # uvicorn's own closes every handler of the process, and absl's then closes its stream
        **options,
    )
