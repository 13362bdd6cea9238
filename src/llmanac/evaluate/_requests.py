"""Requests to a server: sent again where it is busy or the connection breaks, so many a minute at most, and counted.

The key of a server is in the environment variable LLMANAC_API_KEY. It goes to the address that was named, not to one
that this one redirects to.
"""

import contextlib
import email.utils
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from llmanac.core.errors import RequestError, shown

SECONDS = 600.0  # for one answer
MOST = 256 << 20  # bytes of an answer
TRIES = 8  # over a minute and a half together: a server may load its model, or compile
BUSY = (408, 425, 429, 500, 502, 503, 504, 529)  # status codes after which another try may succeed
LONGEST = 60.0  # seconds between tries where the server names none
MOST_WAIT = 900.0  # that a server may name
KEY = "LLMANAC_API_KEY"


class Requests:
    """rpm: requests a minute at most; wait: is given the seconds before the next one.

    Attributes: counts: `requests`, those `repeated`, and tokens, which whoever reads the answers adds.
    """

    def __init__(
        self, *, seconds: float = SECONDS, rpm: float | None = None, wait: Callable[[float], Any] = time.sleep
    ) -> None:
        self.seconds, self.every, self.wait = seconds, 60 / rpm if rpm else 0.0, wait
        self.counts: Counter[str] = Counter()
        self._next = 0.0

    def used(self, price: tuple[float, float] | None) -> dict[str, Any]:
        """The counts, and what they cost at a price of a million tokens read and written."""
        found = {name: self.counts[name] for name in ("requests", "repeated", "read", "written")}
        paid = None if price is None else (found["read"] * price[0] + found["written"] * price[1]) / 1e6
        return {**found, "cost": paid}

    def send(self, place: str, body: Any, headers: Mapping[str, str], key_header: str) -> dict[str, Any]:
        """The JSON object that a server answers; asks for it (GET) where there is no body.

        Raises:
            RequestError: no answer, after `TRIES` tries where the server is busy; an answer that is no JSON object. Its
                code is the status, where there is one.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(place, data, {"Content-Type": "application/json", **headers})
        if key := os.environ.get(KEY):
            request.add_unredirected_header(key_header, f"Bearer {key}" if key_header == "Authorization" else key)
        found = self._tried(place, request, TRIES if data else 1)
        try:
            answer = json.loads(found) if len(found) <= MOST else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise RequestError(f"{place}: does not answer with JSON of at most {MOST >> 20} MiB")
        return answer

    def _tried(self, place: str, request: urllib.request.Request, tries: int) -> bytes:
        for number in range(1, tries + 1):
            self.counts["requests"] += 1
            named = None
            try:
                now = time.monotonic()
                if self._next > now:
                    self.wait(self._next - now)
                self._next = max(now, self._next) + self.every
                with urllib.request.urlopen(request, timeout=self.seconds) as reply:
                    found = bytes(reply.read(MOST + 1))
                    if len(found) <= MOST and reply.length:  # what is still to come
                        raise http.client.IncompleteRead(found, reply.length)
                    return found
            except urllib.error.HTTPError as error:
                detail = error.read(2000).decode("utf-8", "replace")
                said = f"{place}: refuses with status {error.code} ({shown(detail)})"
                said += f"; set {KEY}" if error.code in (401, 403) and KEY not in os.environ else ""
                named = _named(error.headers.get("Retry-After"))
                again, code = error.code in BUSY, str(error.code)
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = error.reason if isinstance(error, urllib.error.URLError) else error
                said, code = f"{place}: cannot be reached ({why})", None
                again = isinstance(why, (ConnectionError, http.client.HTTPException))
            if not again or number == tries:
                raise RequestError(said + (f", {number} times" if number > 1 else ""), code=code)
            if named is not None and named > MOST_WAIT:
                raise RequestError(f"{said}: asks to wait {named:,.0f} s; the same command goes on then", code=code)
            self.counts["repeated"] += 1
            # Retry-After is the least: a server that loads its model or is full says 1 each time
            self.wait(max(named or 0.0, min(LONGEST, 2.0 ** (number - 1)) * random.uniform(0.5, 1)))
        raise AssertionError


def _named(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    if header is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(header))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    return None
