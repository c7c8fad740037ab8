"""Rows of concurrent requests, computed together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.runtime.errors import UserError

# Name of an array -> int32 [n]; what is a token long has n tokens, other arrays may be shorter.
Row = dict[str, np.ndarray]
Run = Callable[[str, Sequence[Row]], Sequence[Any]]


class OverloadedError(UserError):
    """More rows wait than will be computed soon."""


@dataclass(frozen=True)
class _Waiting:
    """A row, and whoever asked for it."""

    program: str
    row: Row
    kind: Hashable
    answer: asyncio.Future[Any]


class Batcher:
    """Collects rows while the device is busy: what came in the meantime goes into the next call.

    Nothing waits for others to come, and a row is computed at a length that it alone decides, so
    that its neighbours change nothing but rounding.
    """

    def __init__(
        self,
        run: Run,
        kind: Callable[[Row], Hashable],
        most_rows: int = 16,
        most_waiting: int = 1024,
    ) -> None:
        """Rows for `run`, which has a thread of its own.

        Args:
            run: (name of a program, rows) -> what it says of each row.
            kind: Rows for which it is equal can be computed together.
            most_rows: Of a call.
            most_waiting: Rows; those that would be more are refused.
        """
        self._run, self._kind = run, kind
        self._most_rows, self._most_waiting = most_rows, most_waiting
        self._thread = ThreadPoolExecutor(1, "device")
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def results(self, program: str, rows: Sequence[Row]) -> list[Any]:
        """What a program says of each row, in their order.

        Raises:
            OverloadedError: Too many are waiting.
        """
        self._forget_gone()
        if len(self._waiting) + len(rows) > self._most_waiting:
            raise OverloadedError("too many requests are waiting; try again in a moment")
        loop = asyncio.get_running_loop()
        asked = [_Waiting(program, row, self._kind(row), loop.create_future()) for row in rows]
        self._waiting += asked
        if self._worker is None and asked:
            self._worker = loop.create_task(self._work())
        return list(await asyncio.gather(*(one.answer for one in asked)))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            rows = [one.row for one in batch]
            try:
                found = await loop.run_in_executor(self._thread, self._run, batch[0].program, rows)
                answered = list(zip(batch, found, strict=True))
            except Exception as error:  # whatever it is, somebody waits for an answer
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
            else:
                for one, said in answered:
                    if not one.answer.done():  # whoever asked may have gone away
                        one.answer.set_result(said)
        self._worker = None

    def _next(self) -> list[_Waiting]:
        """The row that waits longest, and those that can be computed with it."""
        self._forget_gone()
        if not self._waiting:
            return []
        first = self._waiting[0]
        alike = [
            one for one in self._waiting if (one.program, one.kind) == (first.program, first.kind)
        ][: self._most_rows]
        taken = set(map(id, alike))
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return alike

    def _forget_gone(self) -> None:
        self._waiting = [one for one in self._waiting if not one.answer.done()]
