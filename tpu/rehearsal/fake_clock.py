"""A thread that calls functions later, one after the other."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable


class FakeClock:
    """Calls functions when they are due, in order, on its own thread."""

    def __init__(self) -> None:
        """Start the thread."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._open = True
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fake-cloud", daemon=True)
        self._thread.start()

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Schedule a call; calls of the same time keep their order."""
        with self._changed:
            self._count += 1
            heapq.heappush(self._queue, (time.monotonic() + seconds, self._count, function))
            self._changed.notify()

    def close(self) -> None:
        """Stop without the remaining calls; raise what a function raised."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except BaseException as error:
                self._failure = self._failure or error

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while self._open:
                wait = self._queue[0][0] - time.monotonic() if self._queue else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._queue)[2]
                self._changed.wait(wait)
            return None
