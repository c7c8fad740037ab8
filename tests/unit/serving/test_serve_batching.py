"""`bert-jax serve`: requests that come at once are computed together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.models.open import open_model
from pipelines.serving.batching import Batcher, OverloadedError
from pipelines.serving.compiled import CompiledFunctions
from support.model_server import answers_of, assert_close


def test_concurrent_requests_share_calls_and_change_nothing(trained: Path) -> None:
    answers = answers_of(trained)
    calls: list[tuple[str, int]] = []
    run = answers.batcher._run

    def counted(name: str, rows: Any) -> Any:
        calls.append((name, len(rows)))
        return run(name, rows)

    answers.batcher._run = counted
    texts = [f"The captain {'finds ' * (n % 7)}[MASK] boat." for n in range(24)]

    async def together() -> list[Any]:
        return await asyncio.gather(*(answers.fill_mask(text, 5) for text in texts))

    async def alone() -> list[Any]:
        return [await answers.fill_mask(text, 5) for text in texts]

    batched = asyncio.run(together())
    assert sum(rows for _, rows in calls) == len(texts)
    assert len(calls) <= 4  # two lengths, at most 16 rows of each at a time
    assert_close(batched, asyncio.run(alone()))


def test_few_shapes_are_compiled(trained: Path) -> None:
    model = open_model(trained)
    compiled = CompiledFunctions(model, model.tokenizer(), None)
    rows = [
        {"token_ids": np.ones(n, np.int32), "token_type_ids": np.zeros(n, np.int32)}
        for n in range(1, model.network.max_positions + 1)
    ]
    # Lengths 16, 32 and 64; 1, 2, 4 … rows of them.
    assert len({compiled.kind(row) for row in rows}) == 3
    for count in (1, 2, 3, 4):
        compiled.run("vector", rows[:count])
    assert compiled._functions["vector"].func._cache_size() == 3


def test_a_failed_or_full_batch_leaves_no_request_waiting() -> None:
    def broken(name: str, rows: Any) -> Any:
        raise BadInputError(name)

    async def ask() -> None:
        batcher = Batcher(broken, lambda row: 0, max_waiting=3)
        row = {"token_ids": np.zeros(1, np.int32)}
        both = await asyncio.gather(
            batcher.results("a", [row]), batcher.results("a", [row]), return_exceptions=True
        )
        assert [type(row) for row in both] == [BadInputError] * 2
        with pytest.raises(OverloadedError):
            await batcher.results("a", [row] * 4)
        gone = asyncio.ensure_future(batcher.results("b", [row]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(BadInputError):
            await batcher.results("c", [row])

    asyncio.run(asyncio.wait_for(ask(), 20))
