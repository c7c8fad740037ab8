"""Batches of rows of concurrent requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.runtime.errors import UserError

# Name of an array -> int32 [n]; arrays with a value per token have n tokens, others may be shorter.
Row = dict[str, np.ndarray]
Run = Callable[[str, Sequence[Row]], Sequence[Any]]


class OverloadedError(UserError):
    """Too many rows are waiting."""


@dataclass(frozen=True)
class _Waiting:
    """A row and the future of its output."""

    function: str
    row: Row
    kind: Hashable
    output: asyncio.Future[Any]


class Batcher:
    """Collects rows while the device is busy, and computes them together in the next call.

    No row waits for rows that may arrive later. The shape of a batch depends on the row alone, so
    its neighbors change its output by no more than rounding.
    """

    def __init__(
        self,
        run: Run,
        kind: Callable[[Row], Hashable],
        max_rows: int = 16,
        max_waiting: int = 1024,
    ) -> None:
        """Create a batcher whose thread calls `run`.

        Args:
            run: (name of a function, rows) -> output for each row.
            kind: Row -> its kind; rows of the same kind can be computed together.
            max_rows: Most rows per call.
            max_waiting: Most rows that can wait; more are refused.
        """
        self._run, self._kind = run, kind
        self._max_rows, self._max_waiting = max_rows, max_waiting
        self._thread = ThreadPoolExecutor(1, "device")
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def results(self, function: str, rows: Sequence[Row]) -> list[Any]:
        """Return the output of a function for each row, in their order.

        Raises:
            OverloadedError: Too many rows are waiting.
        """
        self._remove_done()
        if len(self._waiting) + len(rows) > self._max_waiting:
            raise OverloadedError("too many requests are waiting; try again in a moment")
        loop = asyncio.get_running_loop()
        added = [_Waiting(function, row, self._kind(row), loop.create_future()) for row in rows]
        self._waiting += added
        if self._worker is None and added:
            self._worker = loop.create_task(self._work())
        return list(await asyncio.gather(*(waiting.output for waiting in added)))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            rows = [waiting.row for waiting in batch]
            function = batch[0].function
            try:
                outputs = await loop.run_in_executor(self._thread, self._run, function, rows)
                pairs = list(zip(batch, outputs, strict=True))
            except Exception as error:  # every error reaches the waiting requests
                for waiting in batch:
                    if not waiting.output.done():
                        waiting.output.set_exception(error)
            else:
                for waiting, output in pairs:
                    if not waiting.output.done():  # the client may have disconnected
                        waiting.output.set_result(output)
        self._worker = None

    def _next(self) -> list[_Waiting]:
        """Return the row that waits longest, and rows that can be computed with it."""
        self._remove_done()
        if not self._waiting:
            return []
        first = self._waiting[0]
        batch = [
            waiting
            for waiting in self._waiting
            if (waiting.function, waiting.kind) == (first.function, first.kind)
        ][: self._max_rows]
        ids = set(map(id, batch))
        self._waiting = [waiting for waiting in self._waiting if id(waiting) not in ids]
        return batch

    def _remove_done(self) -> None:
        self._waiting = [waiting for waiting in self._waiting if not waiting.output.done()]
