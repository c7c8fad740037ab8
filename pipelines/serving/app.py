"""The web application: the page, its files, and the API for what the model can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bert_jax import __version__
from bert_jax.runtime.errors import UserError, one_line
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


def _documented(errors: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": messages.Error, "description": what} for code, what in errors.items()}


_ANY_REQUEST = _documented(
    {
        403: "Sent to another name, or by another site",
        408: "Too slow",
        413: "Too large",
        503: "Too many requests wait",
    }
)
_QUESTION = _documented(
    {
        400: "Not JSON",
        415: "Not sent as JSON",
        422: "Cannot be answered",
        500: "The server failed",
    }
)
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
        responses=_ANY_REQUEST,
        # Their pages would be loaded from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(UserError, _cannot)
    app.add_exception_handler(Exception, _failed)
    _add_page(app)

    @app.get(
        "/health",
        response_model=messages.Health,
        summary="Whether the model answers now: a small question is put to it",
        responses=_documented({503: "It does not; why"}),
    )
    async def health() -> Any:
        why = await answers.trouble()
        return _error(503, why) if why else {"status": "ok"}

    @app.get("/api/model", response_model=messages.Described, summary="What is served")
    async def model() -> Any:
        return answers.described

    for name in answers.abilities:
        ability = _ABILITIES[name]
        app.post(
            f"/api/{name}",
            response_model=ability.response,
            summary=ability.summary,
            responses=_QUESTION,
            operation_id=name,
        )(ability.endpoint(answers))
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


class _Ability(NamedTuple):
    """An endpoint: what it is asked, what it answers, how it is called, and how it answers."""

    request: type
    response: type
    summary: str
    answer: Callable[[Answers, Any], Awaitable[Any]]

    def endpoint(self, answers: Answers) -> Callable[..., Awaitable[Any]]:
        """For FastAPI, which reads from the annotation what it is asked."""

        async def endpoint(asked: Any) -> Any:
            return await self.answer(answers, asked)

        endpoint.__annotations__["asked"] = self.request
        return endpoint


async def _about_texts(answers: Answers, asked: messages.MaybePair) -> Any:
    return await answers.about_pairs(tasks.texts_of(asked.text, asked.pair))


_ABILITIES = {
    "fill-mask": _Ability(
        messages.FillMask,
        messages.FilledMasks,
        "What could stand in place of [MASK]",
        lambda answers, asked: answers.fill_mask(asked.text, asked.top_k),
    ),
    "next-sentence": _Ability(
        messages.Pair,
        messages.Follows,
        "Whether a text follows another",
        lambda answers, asked: answers.next_sentence(asked.text, asked.pair),
    ),
    "similarity": _Ability(
        messages.Compared,
        messages.Similarity,
        "How alike the vectors of texts are",
        lambda answers, asked: answers.similarity(asked.texts),
    ),
    "attention": _Ability(
        messages.Looked,
        messages.Attended,
        "What the heads of a layer attend to",
        lambda answers, asked: answers.attention(asked.text, asked.pair, asked.layer),
    ),
    "tokenize": _Ability(
        messages.MaybePair,
        messages.Tokenized,
        "The tokens of a text or two",
        lambda answers, asked: answers.tokenize(asked.text, asked.pair),
    ),
    "classification": _Ability(
        messages.MaybePair, messages.Classified, "The class of a text or pair", _about_texts
    ),
    "regression": _Ability(
        messages.MaybePair, messages.Measured, "The value of a text or pair", _about_texts
    ),
    "multiple-choice": _Ability(
        messages.Choices,
        messages.Chosen,
        "The choice that fits best",
        lambda answers, asked: answers.choose(asked.text, asked.choices),
    ),
    "ranking": _Ability(
        messages.Ranked,
        messages.Ranking,
        "Passages in the order of their relevance",
        lambda answers, asked: answers.rank(asked.query, asked.passages),
    ),
    "tagging": _Ability(
        messages.Single,
        messages.Tagged,
        "Tags of words, and entities",
        lambda answers, asked: answers.about(tasks.words_of(asked.text)),
    ),
    "qa": _Ability(
        messages.Question,
        messages.Answered,
        "The part of a passage that answers a question",
        lambda answers, asked: answers.about(tasks.question_of(asked.question, asked.context)),
    ),
    "summarization": _Ability(
        messages.Single,
        messages.Summary,
        "The sentences that sum up a document",
        lambda answers, asked: answers.summarize(asked.text),
    ),
}


def _error(status: int, why: str) -> JSONResponse:
    return JSONResponse({"error": one_line(why)}, status)


async def _invalid(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)  # noqa: S101
    said = []
    for one in error.errors():
        if one["type"] == "json_invalid":
            place = f"{one['ctx']['error']} at character {one['loc'][1]}"
            return _error(400, f"the request is not JSON: {place}")
        path = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"][1:]
        )
        said.append(f"{path.lstrip('.') or 'the request'}: {_SAID.get(one['type'], one['msg'])}")
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
