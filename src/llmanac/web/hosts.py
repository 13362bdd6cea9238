"""Which `Host` headers are answered.

A web page of another site can have its own name resolved to the loopback address (DNS rebinding); its scripts may then
read what this server says. The browser still sends that site's name as the host, so names that are not this server's
are refused. An address written in numbers cannot be rebound.
"""

import errno
import ipaddress
import re
import socket
import sys
from collections.abc import Iterable

from llmanac.core.errors import LlmanacError

_HOST = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|(?P<name>[\w.-]+))(?::\d{1,5})?", re.ASCII)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[\w.:\[\]-]+", re.ASCII)


class Hosts:
    """The names that requests may give this server.

    Args:
        listening: the address or name that the server listens on (`--host`). On 0.0.0.0 or :: every address in numbers
            is taken, and this machine's own name.
        allowed: further names (`--allow-host`); `*` takes every name.
        origins: of other sites' pages that may use this server (`--allow-origin`), such as https://app.example; `*`
            takes every page.

    Raises:
        LlmanacError: what is allowed is not a host's name or address, or not an origin.
    """

    def __init__(self, listening: str = "127.0.0.1", allowed: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        names, self.origins = list(allowed), frozenset(origin.rstrip("/").lower() for origin in origins)
        for origin in self.origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise LlmanacError(f"--allow-origin {origin}: not an origin; give one such as https://app.example")
        for name in names:
            if name != "*" and _name_of(name) is None:
                raise LlmanacError(f"--allow-host {name}: not a host's name or address; give one such as llm.example")
        self._every = "*" in names
        self._names = {_name_of(name) for name in (listening, *names)}
        found = _address(_name_of(listening) or "")
        self._addresses = found is not None and found.is_unspecified
        if self._addresses:
            self._names.add(_name_of(socket.gethostname()))

    def shares(self, origin: str) -> bool:
        """Whether pages of another site's origin may read what this server says."""
        return bool(origin) and ("*" in self.origins or origin.lower() in self.origins)

    def allows(self, header: str) -> bool:
        """Whether a request with this `Host` header is for this server; the port does not matter."""
        if self._every:
            return True
        name = _name_of(header)
        if name is None:
            return False
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        address = _address(name)
        return address is not None and (self._addresses or address.is_loopback)


def _name_of(text: str) -> str | None:
    """A host's name or address without its port, in one spelling; None for what is neither."""
    bare = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    match = _HOST.fullmatch(bare)
    if match is None:
        return None
    name = (match["six"] or match["name"]).lower().rstrip(".")
    address = _address(name)
    return str(address) if address is not None else name or None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def claim_port(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one.

    Raises:
        LlmanacError: the port is taken, is not allowed, or the host is not an address of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise LlmanacError(f"--host {host}: not an address of this machine; use 127.0.0.1 or 0.0.0.0") from error
    family, kind, protocol, _, address = found[0]
    claimed = socket.socket(family, kind, protocol)
    if sys.platform != "win32":  # there it would let two servers share a port
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        claimed.bind(address)
        claimed.listen(128)
    except OSError as error:
        claimed.close()
        if isinstance(error, PermissionError):
            raise LlmanacError(f"--port {port}: this user may not listen on it; use one above 1023") from error
        reason = "something else listens there" if error.errno == errno.EADDRINUSE else str(error.strerror).lower()
        raise LlmanacError(f"--port {port}: cannot listen on {host} ({reason}); choose another --port") from error
    return claimed
