"""Checks of requests before the API: host, origin, type, size and time."""

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
    # The page loads files of this server only, and no text can become markup or a script.
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

REQUEST_SECONDS = 30.0  # for the head of a request, and again for its body
# A body of up to so many times the limit is read to its end before the error: a client that is
# still sending when the connection closes never reads the response. Clients that send Expect do.
_READ_FACTOR = 16


class Hosts:
    """The host names that requests may use.

    A foreign page can let its own name resolve to the address of this computer (DNS rebinding) and
    so reach a server that listens here only. Then its name is in the Host header. IP addresses are
    allowed, as they are not names.
    """

    def __init__(self, host: str) -> None:
        """Allow the names of a server that listens on `host`."""
        self._names = {"localhost", host.lower()}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._only_loopback = is_loopback(host)

    def allows(self, header: str) -> bool:
        """Return whether a Host header names this server."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
            address = ipaddress.ip_address(name)
        except ValueError:
            # Not an IP address, and maybe not a valid name.
            return header.rpartition(":")[0].lower() in self._names or header.lower() in self._names
        return address.is_loopback or not self._only_loopback


def is_loopback(host: str) -> bool:
    """Return whether only this computer can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class RequestFilter:
    """ASGI middleware that checks requests and adds security headers to responses."""

    def __init__(self, app: ASGIApp, hosts: Hosts, max_bytes: int) -> None:
        """Wrap `app`; request bodies have at most `max_bytes`."""
        self._app, self._hosts, self._max_bytes = app, hosts, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        if scope["type"] != "http":
            return  # WebSocket is not supported
        try:
            self._check(scope)
            body = await self._in_time(receive)
            if scope["method"] == "POST" and not body:
                raise _RefusedError(400, "the request is empty; send JSON")
        except ClientDisconnect:
            return
        except _RefusedError as error:
            # The rest of the request is not read: the server closes the connection.
            await error_response(error.status, str(error))(scope, receive, answer)
            return
        await self._app(scope, _once(body, receive), answer)

    def _check(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._hosts.allows(host):
            message = f"this server is not {host!r}; open the address that it printed"
            raise _RefusedError(403, message)
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise _RefusedError(403, "pages of other sites cannot use this server")
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                message = "send JSON, with the header Content-Type: application/json"
                raise _RefusedError(415, message)
        length = headers.get(b"content-length", "0")
        limit = self._max_bytes * (1 if b"expect" in headers else _READ_FACTOR)
        if length.isdecimal() and int(length[:18]) > limit:
            raise self._too_large()

    async def _in_time(self, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._body(receive)
        except TimeoutError:
            message = f"the request was not complete after {REQUEST_SECONDS:g} seconds"
            raise _RefusedError(408, message) from None

    async def _body(self, receive: Receive) -> bytes:
        body, received, more = b"", 0, True
        while more and received <= _READ_FACTOR * self._max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
            received += len(part)
            body = body + part if received <= self._max_bytes else b""
        if received > self._max_bytes:
            raise self._too_large()
        return body

    def _too_large(self) -> _RefusedError:
        return _RefusedError(
            413, f"the request has more than {self._max_bytes:,} bytes; send less text"
        )


class _RefusedError(Exception):
    """A request that does not reach the application."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _once(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns a body that was already read."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_once() -> Message:
        return messages.pop() if messages else await receive()

    return receive_once


async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the application of a connection above the limit."""
    await error_response(503, "too many connections; try again in a moment")(scope, receive, send)


def error_response(status: int, message: str) -> JSONResponse:
    """Return a response with an error message in one line; it is an application as well."""
    return JSONResponse({"error": one_line(message)}, status)
