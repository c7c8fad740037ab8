"""The web application: the page, its files, and the API for what the model can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bert_jax import __version__
from bert_jax.errors import UserError, one_line
from pipelines.serving import messages, tasks
from pipelines.serving.answers import Answers
from pipelines.serving.batching import OverloadedError
from pipelines.serving.guards import Guard, Hosts
from pipelines.serving.programs import NotFiniteAnswerError

_PAGE = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": messages.Error, "description": what}
    for code, what in {
        400: "Not JSON",
        413: "Too large",
        415: "Not sent as JSON",
        422: "Cannot be answered",
        500: "The server failed",
        503: "Too many requests wait",
    }.items()
}
# What pydantic says of a pattern is meant for programmers.
_SAID = {"string_pattern_mismatch": "is blank", "string_unicode": "is not Unicode text"}


def create_app(answers: Answers, hosts: Hosts) -> Guard:
    """The application for a model.

    Args:
        answers: The model.
        hosts: Who it may be called.
    """
    app = FastAPI(
        title="bert-jax serve",
        summary=f"What {answers.described['name']} can be asked",
        version=__version__,
        # Their pages would be loaded from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(UserError, _cannot)
    app.add_exception_handler(Exception, _failed)
    _add_page(app)

    @app.get("/health", response_model=messages.Health, summary="Whether the server works")
    async def health() -> Any:
        return {"status": "ok"}

    @app.get("/api/model", response_model=messages.Described, summary="What is served")
    async def model() -> Any:
        return answers.described

    for name in answers.abilities:
        endpoint, response, summary = _ENDPOINTS[name]
        app.post(
            f"/api/{name}",
            response_model=response,
            summary=summary,
            responses=_ERRORS,
            operation_id=name,
        )(endpoint(answers))
    # Around everything, also around what answers when the application fails.
    return Guard(app, hosts, messages.BODY_BYTES)


def _add_page(app: FastAPI) -> None:
    folder = resources.files("pipelines.serving") / "page"

    def add(path: str, content: bytes, kind: str) -> None:
        @app.get(path, include_in_schema=False)
        async def file() -> Response:
            return Response(content, media_type=kind)

    for path, (name, kind) in _PAGE.items():
        add(path, (folder / name).read_bytes(), kind)


Endpoint = Callable[..., Awaitable[Any]]


def _fill_mask(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.FillMask) -> Any:
        return await answers.fill_mask(asked.text, asked.top_k)

    return endpoint


def _next_sentence(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.Pair) -> Any:
        return await answers.next_sentence(asked.text, asked.pair)

    return endpoint


def _similarity(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.Compared) -> Any:
        return await answers.similarity(asked.texts)

    return endpoint


def _attention(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.Looked) -> Any:
        return await answers.attention(asked.text, asked.pair, asked.layer)

    return endpoint


def _tokenize(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.MaybePair) -> Any:
        return await answers.tokenize(asked.text, asked.pair)

    return endpoint


def _about_texts(answers: Answers) -> Endpoint:
    """Classification and regression."""

    async def endpoint(asked: messages.MaybePair) -> Any:
        return await answers.about_pairs(tasks.texts_of(asked.text, asked.pair))

    return endpoint


def _choice(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.Choices) -> Any:
        return await answers.choose(asked.text, asked.choices)

    return endpoint


def _ranking(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.Ranked) -> Any:
        return await answers.rank(asked.query, asked.passages)

    return endpoint


def _tagging(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.Single) -> Any:
        return await answers.about(tasks.words_of(asked.text))

    return endpoint


def _qa(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.Question) -> Any:
        return await answers.about(tasks.question_of(asked.question, asked.context))

    return endpoint


def _summarization(answers: Answers) -> Endpoint:
    async def endpoint(asked: messages.Single) -> Any:
        return await answers.summarize(asked.text)

    return endpoint


# Ability -> makes the endpoint of a model, what it answers, and how it is called.
_ENDPOINTS: dict[str, tuple[Callable[[Answers], Endpoint], type, str]] = {
    "fill-mask": (_fill_mask, messages.FilledMasks, "What could stand in place of [MASK]"),
    "next-sentence": (_next_sentence, messages.Follows, "Whether a text follows another"),
    "similarity": (_similarity, messages.Similarity, "How alike the vectors of texts are"),
    "attention": (_attention, messages.Attended, "What the heads of a layer attend to"),
    "tokenize": (_tokenize, messages.Tokenized, "The tokens of a text or two"),
    "classification": (_about_texts, messages.Classified, "The class of a text or pair"),
    "regression": (_about_texts, messages.Measured, "The value of a text or pair"),
    "multiple-choice": (_choice, messages.Chosen, "The choice that fits best"),
    "ranking": (_ranking, messages.Ranking, "Passages in the order of their relevance"),
    "tagging": (_tagging, messages.Tagged, "Tags of words, and entities"),
    "qa": (_qa, messages.Answered, "The part of a passage that answers a question"),
    "summarization": (_summarization, messages.Summary, "The sentences that sum up a document"),
}


def _error(status: int, why: str) -> JSONResponse:
    return JSONResponse({"error": one_line(why)}, status)


async def _invalid(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)  # noqa: S101
    said = []
    for one in error.errors():
        path = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"][1:]
        )
        if one["type"] == "json_invalid":
            said.append(
                f"the request is not JSON: {one['ctx']['error']} at character {one['loc'][1]}"
            )
        else:
            said.append(
                f"{path.lstrip('.') or 'the request'}: {_SAID.get(one['type'], one['msg'])}"
            )
    return _error(422, "; ".join(said))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    path, why = request.url.path, str(error.detail)
    if error.status_code == 404:
        offered = [route.path for route in request.app.routes if route.path.startswith("/api/")]
        why = f"there is no {path} here; this model has {', '.join(offered)}"
    elif error.status_code == 405:
        why = f"{path} does not take {request.method}; {', '.join(_allowed(error))} it"
    answer = _error(error.status_code, why)
    answer.headers.update(error.headers or {})
    return answer


def _allowed(error: HTTPException) -> list[str]:
    return (error.headers or {}).get("Allow", "GET").split(", ")


async def _cannot(request: Request, error: Exception) -> Response:
    del request
    if isinstance(error, OverloadedError):
        return _error(503, str(error))
    return _error(500 if isinstance(error, NotFiniteAnswerError) else 422, str(error))


async def _failed(request: Request, error: Exception) -> Response:
    # The server's terminal shows the traceback, which is nobody else's business.
    del request, error
    return _error(500, "the server failed; its terminal says why")
