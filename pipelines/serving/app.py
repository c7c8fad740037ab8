"""The web application: the page, and the API with the endpoints of a model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from importlib import resources
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bert_jax import __version__
from bert_jax.runtime.errors import UserError
from pipelines.serving import forms, messages
from pipelines.serving.answers import Answers
from pipelines.serving.batching import OverloadedError
from pipelines.serving.compiled import NotFiniteAnswerError
from pipelines.serving.guards import Hosts, RequestFilter, error_response
from pipelines.tasks.task import Task

_PAGE = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def _documented(errors: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": messages.Error, "description": text} for code, text in errors.items()}


_ANY_REQUEST = _documented(
    {
        403: "Sent to another host name, or by another site",
        408: "Too slow",
        413: "Too large",
        503: "Too many requests are waiting",
    }
)
_POST = _documented(
    {
        400: "Not JSON",
        415: "Content type is not JSON",
        422: "Invalid request",
        500: "The server failed",
    }
)
# Replacements of messages of pydantic that mention patterns.
_MESSAGES = {"string_pattern_mismatch": "is blank", "string_unicode": "is not Unicode text"}


def create_app(answers: Answers, hosts: Hosts) -> RequestFilter:
    """Return the application for a model.

    Args:
        answers: The model.
        hosts: The allowed host names.
    """
    app = FastAPI(
        title="bert-jax serve",
        summary=f"The endpoints of {answers.described['name']}",
        version=__version__,
        responses=_ANY_REQUEST,
        # These pages would load files of other servers.
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(Exception, _failed)
    tasks = answers.served.tasks if answers.served else {}
    _add_page(app, tasks.values())

    @app.get(
        "/health",
        response_model=messages.Health,
        summary="The answer of the model to a small request",
        responses=_documented({503: "It failed, with the reason"}),
    )
    async def health() -> Any:
        failure = await answers.failure()
        return error_response(503, failure) if failure else {"status": "ok"}

    @app.get("/api/model", response_model=messages.Described, summary="The model")
    async def model() -> Any:
        return answers.described

    for name in answers.abilities:
        ability = _task_ability(tasks[name]) if name in tasks else ABILITIES[name]
        app.post(
            f"/api/{name}",
            response_model=ability.response,
            summary=ability.summary,
            responses=_POST,
            operation_id=name,
        )(ability.endpoint(answers))
    # Outermost, so that it also covers the response to a failure of the application.
    return RequestFilter(app, hosts, messages.MAX_BYTES)


def _add_page(app: FastAPI, tasks: Iterable[Task]) -> None:
    folder = resources.files("pipelines.serving") / "page"

    def add(path: str, content: bytes, kind: str) -> None:
        @app.get(path, include_in_schema=False)
        async def file() -> Response:
            return Response(content, media_type=kind)

    sections = "\n\n".join(map(forms.section, tasks))
    for path, (name, kind) in _PAGE.items():
        content = (folder / name).read_text("utf-8")
        add(path, content.replace("<!-- forms of the task -->", sections).encode(), kind)


class _Ability(NamedTuple):
    """An endpoint: types of request and response, summary, and function."""

    request: type
    response: type
    summary: str
    answer: Callable[[Answers, Any], Awaitable[Any]]

    def endpoint(self, answers: Answers) -> Callable[..., Awaitable[Any]]:
        """Return the function for FastAPI, with the annotation that it needs."""

        async def endpoint(request: Any) -> Any:
            return await self.answer(answers, request)

        endpoint.__annotations__["request"] = self.request
        return endpoint


def _task_ability(task: Task) -> _Ability:
    request = messages.request_model(task.endpoint.request)
    return _Ability(
        request,
        task.endpoint.response,
        task.summary,
        lambda answers, request: answers.task(task.name, request),
    )


# The endpoints of models without a task head.
ABILITIES = {
    "fill-mask": _Ability(
        messages.FillMask,
        messages.FilledMasks,
        "Tokens for [MASK]",
        lambda answers, request: answers.fill_mask(request.text, request.top_k),
    ),
    "next-sentence": _Ability(
        messages.Pair,
        messages.Follows,
        "The probability that a text follows another",
        lambda answers, request: answers.next_sentence(request.text, request.pair),
    ),
    "similarity": _Ability(
        messages.Compared,
        messages.Similarity,
        "The cosines of the vectors of texts",
        lambda answers, request: answers.similarity(request.texts),
    ),
    "attention": _Ability(
        messages.Looked,
        messages.Attended,
        "The attention of the heads of a layer",
        lambda answers, request: answers.attention(request.text, request.pair, request.layer),
    ),
    "tokenize": _Ability(
        messages.MaybePair,
        messages.Tokenized,
        "The tokens of a text or pair",
        lambda answers, request: answers.tokenize(request.text, request.pair),
    ),
}


async def _invalid(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problems = []
    for item in error.errors():
        if item["type"] == "json_invalid":
            reason = f"{item['ctx']['error']} at character {item['loc'][1]}"
            return error_response(400, f"the request is not JSON: {reason}")
        path = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"][1:]
        )
        message = _MESSAGES.get(item["type"], item["msg"])
        problems.append(f"{path.lstrip('.') or 'the request'}: {message}")
    return error_response(422, "; ".join(problems))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    path, message = request.url.path, str(error.detail)
    if error.status_code == 404:
        offered = [route.path for route in request.app.routes if route.path.startswith("/api/")]
        message = f"this model has no {path}; it has {', '.join(offered)}"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        message = f"{path} does not accept {request.method}; use {allowed}"
    response = error_response(error.status_code, message)
    response.headers.update(error.headers or {})
    return response


async def _user_error(request: Request, error: Exception) -> Response:
    del request
    if isinstance(error, OverloadedError):
        return error_response(503, str(error))
    return error_response(500 if isinstance(error, NotFiniteAnswerError) else 422, str(error))


async def _failed(request: Request, error: Exception) -> Response:
    # Only the terminal of the server shows the traceback.
    del request, error
    return error_response(500, "the server failed; its terminal shows the reason")
