"""The HTTP server: limits of connections, and shutdown by signals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from bert_jax.runtime.signals import take_over
from pipelines.serving import guards

_MAX_CONNECTIONS = 256  # most systems allow 1,024 open files per process
_MAX_SECONDS = 600.0  # per connection, even if the client does not read the response
_SHUTDOWN_SECONDS = 5  # for running requests


def config(app: ASGIApp) -> uvicorn.Config:
    """Return the config of a server for an application."""
    return uvicorn.Config(
        app,
        http=Connection,
        # The default would close the handlers of other libraries.
        log_config=None,
        log_level="error",
        access_log=False,
        ws="none",
        server_header=False,
        headers=[("Connection", "close")],
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


class Connection(H11Protocol):
    """A connection for one request; uvicorn alone would wait forever for slow clients."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timers of a connection."""
        super().connection_made(transport)
        self._timers = [
            self.loop.call_later(guards.REQUEST_SECONDS, self._without_request),
            self.loop.call_later(_MAX_SECONDS, transport.abort),
        ]
        if len(self.connections) > _MAX_CONNECTIONS:
            self.app: Any = guards.crowded

    def _without_request(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers of a connection."""
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """A server that the usual signals end, with exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in place of the handlers that end the process at once."""
        take_over(self._on_signal)
        yield

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # A second signal ends it at once.
        self.force_exit, self.should_exit = self.should_exit, True
