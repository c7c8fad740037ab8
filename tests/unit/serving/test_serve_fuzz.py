"""`bert-jax serve`: requests made at random, after the API's own document and against it."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipelines.serving.app import ABILITIES
from pipelines.tasks.registry import OTHER_USES, TASKS
from support.model_server import GOLDEN, served, with_head

pytestmark = pytest.mark.full

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 20  # of an operation, after the document and as many against it
# Endpoint -> task of the model; None is a pre-trained model.
MODELS: dict[str, str | None] = {
    **dict.fromkeys(ABILITIES),
    **{task: task for task in TASKS},
    **{
        use.name: next(name for name, task in TASKS.items() if issubclass(use, task))
        for use in OTHER_USES
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_every_answer_matches_the_openapi_document(name: str) -> None:
    task = MODELS[name]
    with served(with_head(task) if task else GOLDEN) as client:
        schema = schemathesis.openapi.from_url(f"{client.url}openapi.json")
        operation = schema[f"/api/{name}"]["POST"]
        assert 200 in fuzzed(operation, GenerationMode.POSITIVE)
        assert 422 in fuzzed(operation, GenerationMode.NEGATIVE)
        for path in ("/health", "/api/model"):
            schema[path]["GET"].Case().call_and_validate(checks=CHECKS)


def fuzzed(operation: Any, mode: GenerationMode) -> set[int]:
    """The codes of answers to many requests."""
    codes = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        if operation.path == "/api/fill-mask" and mode == GenerationMode.POSITIVE:
            case.body["text"] = f"{case.body['text'][:50]} [MASK]"
        codes.add(case.call_and_validate(checks=CHECKS).status_code)

    fuzz()
    return codes
