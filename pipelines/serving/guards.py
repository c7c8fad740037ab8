"""What stands between the network and the API: who may ask, how much, and what a page may do."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bert_jax.runtime.errors import one_line

_HEADERS = {
    # Everything is ours and comes from here; no string of a text can become markup or a program.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


SLOWEST = 30.0  # seconds for the head of a request, and as many for its body
# So many times what is allowed is read to its end before it is refused as too large: who still
# sends when the connection is closed never reads why. Who asks first, with Expect, does read it.
_READ_ANYWAY = 16


class Hosts:
    """The names under which the server may be asked.

    A page of a stranger can give its own name the address of this computer (DNS rebinding) and so
    reach what listens here only; but then its name is in the Host header. An address is no name.
    """

    def __init__(self, host: str) -> None:
        """The names of a server that listens on `host`."""
        self._names = {"localhost", host.lower()}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._only_loopback = is_loopback(host)

    def allows(self, header: str) -> bool:
        """Whether a Host header names this server."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
            address = ipaddress.ip_address(name)
        except ValueError:
            # Not an address, or not even a name.
            return header.rpartition(":")[0].lower() in self._names or header.lower() in self._names
        return address.is_loopback or not self._only_loopback


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware: hosts, origins, content type and size of requests; headers of answers."""

    def __init__(self, app: ASGIApp, hosts: Hosts, most_bytes: int) -> None:
        """Before `app`; bodies have at most `most_bytes`."""
        self._app, self._hosts, self._most_bytes = app, hosts, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        if scope["type"] != "http":
            return  # nobody speaks WebSocket here
        try:
            self._look_at(scope)
            body = await self._in_time(receive)
            if scope["method"] == "POST" and not body:
                raise _RefusedError(400, "the request is empty; send JSON")
        except ClientDisconnect:
            return
        except _RefusedError as error:
            # What is left of the request now is not read: the server closes the connection.
            await _said(error.status, str(error))(scope, receive, answer)
            return
        await self._app(scope, _once(body, receive), answer)

    def _look_at(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._hosts.allows(host):
            why = f"this server is not {host!r}; open it by the address that it printed"
            raise _RefusedError(403, why)
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise _RefusedError(403, "pages of other sites may not use this server")
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                why = "send JSON, with the header Content-Type: application/json"
                raise _RefusedError(415, why)
        length = headers.get(b"content-length", "0")
        most = self._most_bytes * (1 if b"expect" in headers else _READ_ANYWAY)
        if length.isdecimal() and int(length[:18]) > most:
            raise self._too_large()

    async def _in_time(self, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(SLOWEST):
                return await self._body(receive)
        except TimeoutError:
            why = f"the request was not there in {SLOWEST:g} seconds"
            raise _RefusedError(408, why) from None

    async def _body(self, receive: Receive) -> bytes:
        body, seen, more = b"", 0, True
        while more and seen <= _READ_ANYWAY * self._most_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
            seen += len(part)
            body = body + part if seen <= self._most_bytes else b""
        if seen > self._most_bytes:
            raise self._too_large()
        return body

    def _too_large(self) -> _RefusedError:
        return _RefusedError(413, f"the request has more than {self._most_bytes:,} bytes")


class _RefusedError(Exception):
    """A request that does not reach the application."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def _once(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of connections that are too many."""
    await _said(503, "too many connections; try again in a moment")(scope, receive, send)


def _said(status: int, why: str) -> ASGIApp:
    return JSONResponse({"error": one_line(why)}, status)
