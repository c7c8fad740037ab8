"""`bert-jax serve`: what a client hears when the server cannot answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pipelines.models.open import open_model
from pipelines.serving import answers as answers_module
from pipelines.serving.answers import Answers
from support.model_server import GOLDEN, Client, answers_of, served

NOT_FOR_ALL = "Traceback (most recent call last):\n  File /home/somebody/secret.py"


@pytest.fixture
def answers() -> Answers:
    return answers_of(GOLDEN)


def health(client: Client) -> tuple[int, str]:
    code, _, content = client.request("GET", "/health")
    (message,) = json.loads(content).values()
    assert "\n" not in message
    return code, message


def test_a_failure_is_a_line_without_details_of_the_server(
    answers: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    run = answers.batcher._run

    def failing(name: str, rows: Any) -> Any:
        raise RuntimeError(NOT_FOR_ALL)

    with served(answers) as client:
        assert health(client) == (200, "ok")
        answers.batcher._run = failing
        why = client.refused(500, "next-sentence", text="the man", pair="milk")
        assert why == "the server failed; its terminal shows the reason"
        until(lambda: NOT_FOR_ALL in caplog.text)  # which the terminal shows
        code, why = health(client)
        assert code == 503
        assert why.startswith("RuntimeError: ")
        # It is not remembered: the next one is answered if it can be.
        answers.batcher._run = run
        client.result("next-sentence", text="the man", pair="milk")
        assert health(client) == (200, "ok")


def test_a_broken_model_has_a_page() -> None:
    model = open_model(GOLDEN)
    params = jax.tree.map(lambda array: np.full_like(array, np.nan), model.weights.params)
    with served(replace(model, weights=replace(model.weights, params=params))) as client:
        why = client.refused(500, "similarity", texts=["the man", "milk"])
        assert (
            why == "the model is damaged: its output is infinite or NaN; serve another checkpoint"
        )
        assert health(client) == (503, why)
        assert client.request("GET", "/")[0] == client.request("GET", "/api/model")[0] == 200


def test_a_program_with_too_few_results_fails_every_request(answers: Answers) -> None:
    answers.batcher._run = lambda name, rows: []
    with served(answers) as client:
        for _ in range(2):
            client.refused(500, "next-sentence", text="the man", pair="milk")


def test_a_full_queue_and_a_device_that_hangs(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "_HEALTH_TIMEOUT", 0.3)
    run, over = answers.batcher._run, threading.Event()

    def hanging(name: str, rows: Any) -> Any:
        over.wait(30)
        return run(name, rows)

    answers.batcher._run, answers.batcher._max_waiting = hanging, 2
    with served(answers) as client:
        answered: list[str] = []

        def ask() -> None:
            result = client.result("next-sentence", text="the man", pair="milk")
            answered.append("yes" if result["follows"] > 0 else "no")

        threads = [threading.Thread(target=ask) for _ in range(3)]
        try:
            threads[0].start()  # is being computed
            until(lambda: answers.batcher._worker is not None and not answers.batcher._waiting)
            assert health(client) == (503, "the device did not answer for 0.3 seconds")
            for thread in threads[1:]:  # wait
                thread.start()
            until(
                lambda: sum(not waiting.output.done() for waiting in answers.batcher._waiting) == 2
            )
            why = client.refused(503, "similarity", texts=["a", "b"])
            assert why == "too many requests are waiting; try again in a moment"
            assert health(client) == (503, why)
        finally:
            over.set()
        for thread in threads:
            thread.join()
        assert answered == ["yes"] * 3
        until(lambda: health(client) == (200, "ok"))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
