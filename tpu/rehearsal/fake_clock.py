"""One thread that does things later, one after the other."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable


class Clock:
    """Calls functions at their time, in order, on a thread of its own."""

    def __init__(self) -> None:
        """Starts the thread."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._open = True
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fake-cloud", daemon=True)
        self._thread.start()

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Calls `function` then; those of one time in the order in which they came."""
        with self._changed:
            self._count += 1
            heapq.heappush(self._due, (time.monotonic() + seconds, self._count, function))
            self._changed.notify()

    def close(self) -> None:
        """Stops; what is still to come does not. Raises what a function raised."""
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
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
            return None
