"""Servers of small models, and their client."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from pipelines.models.open import LoadedModel, open_model
from pipelines.serving.answers import Answers
from pipelines.serving.app import create_app
from pipelines.serving.guards import Hosts
from pipelines.serving.serve import listening, url
from pipelines.serving.server import config
from pipelines.tasks.config import FinetuneConfig, TaskDataConfig
from support.commands import ROOT
from support.finetuned import FILES

GOLDEN = ROOT / "tests/golden/hugging_face"
NEAR = 1e-5


class Client:
    """A client with the headers of a program."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.address = url.removeprefix("http://").rstrip("/")

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, fields)
            response = connection.getresponse()
            header = {name.lower(): value for name, value in response.getheaders()}
            return response.status, header, response.read()
        finally:
            connection.close()

    def post(self, name: str, **request: Any) -> tuple[int, Any]:
        body = json.dumps(request).encode()
        status, _, content = self.request(
            "POST", f"/api/{name}", body, Content_Type="application/json"
        )
        return status, json.loads(content)

    def result(self, name: str, **request: Any) -> Any:
        status, body = self.post(name, **request)
        assert status == 200, body
        return body

    def refused(self, code: int, name: str, **request: Any) -> str:
        status, body = self.post(name, **request)
        assert status == code, body
        assert list(body) == ["error"]
        assert "\n" not in body["error"]
        assert len(body["error"]) < 500
        return body["error"]


def assert_close(actual: Any, expected: Any) -> None:
    """Assert that JSON values are equal, numbers to 1e-5; `actual` may have more keys."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_close(actual[key], value)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for actual_item, item in zip(actual, expected, strict=True):
            assert_close(actual_item, item)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, abs=NEAR, rel=NEAR)
    else:
        assert actual == expected


def with_head(task: str) -> LoadedModel:
    """Return a small BERT with an untrained head for a task."""
    classes = FILES[task].classes
    model = open_model(GOLDEN)
    data = TaskDataConfig(train="none", length=32)
    config = FinetuneConfig(task=task, run_dir="none", model=model.network, data=data)
    draw = np.random.default_rng(0).normal
    head = {
        "kernel": draw(size=(model.network.hidden_size, len(classes))),
        "bias": [0] * len(classes),
    }
    head = {name: np.array(array, np.float32) for name, array in head.items()}
    params = {"bert": model.weights.params["bert"], "head": head}
    weights = replace(model.weights, params=params, architecture="", labels=classes)
    return replace(model, weights=weights, finetune=config)


def answers_of(model: Path | LoadedModel) -> Answers:
    return Answers(open_model(model) if isinstance(model, Path) else model)


@contextmanager
def served(model: Path | LoadedModel | Answers) -> Iterator[Client]:
    """Serve a model in a thread of this process."""
    answers = model if isinstance(model, Answers) else answers_of(model)
    with listening("127.0.0.1", 0) as sock:
        app = create_app(answers, Hosts("127.0.0.1"))
        # A thread cannot handle signals.
        server = uvicorn.Server(config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield Client(url(sock))
        finally:
            server.should_exit = True
            thread.join()
