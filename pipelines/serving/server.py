"""The HTTP server: how many may ask, how long a connection lasts, and how it is told to end."""

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

_CONNECTIONS = 256  # a process may have 1,024 files on most systems
_LONGEST = 600.0  # seconds of a connection, also of one whose answer nobody takes
_PATIENCE = 5  # seconds that requests have to end when the server is told to


def config(app: ASGIApp) -> uvicorn.Config:
    """Of a server for an application."""
    return uvicorn.Config(
        app,
        http=Connection,
        # Its own would close the handlers of every other library.
        log_config=None,
        log_level="error",
        access_log=False,
        ws="none",
        server_header=False,
        headers=[("Connection", "close")],
        timeout_graceful_shutdown=_PATIENCE,
    )


class Connection(H11Protocol):
    """A connection for one request; uvicorn's own would wait for ever for who is slow."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Sets its limits."""
        super().connection_made(transport)
        self._limits = [
            self.loop.call_later(guards.SLOWEST, self._without_request),
            self.loop.call_later(_LONGEST, transport.abort),
        ]
        if len(self.connections) > _CONNECTIONS:
            self.app: Any = guards.crowded

    def _without_request(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the limits."""
        for limit in self._limits:
            limit.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """uvicorn's, ended by the signals that end other commands, but as something done."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes them over from who ends at once."""
        take_over(self._told)
        yield

    def _told(self, number: int, frame: FrameType | None) -> None:
        # Once more ends it at once.
        self.force_exit, self.should_exit = self.should_exit, True
