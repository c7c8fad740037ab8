"""A thread that calls functions later, one after the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class FakeClock:
    """Calls functions when they are due, in order, on its own thread."""

    def __init__(self) -> None:
        """Start the thread."""
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._keep_failure)
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fake-cloud", daemon=True
        )
        self._thread.start()

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Schedule a call; calls of the same time keep their order."""
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, function)

    def close(self) -> None:
        """Stop without the remaining calls; raise what a function raised."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._failure is not None:
            raise self._failure

    def _keep_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failure = self._failure or context["exception"]
