"""Requests and responses of the API; the OpenAPI document is generated from them."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from pipelines.tasks import endpoint

MAX_CHARACTERS = 10_000  # per text
MAX_TEXTS = 16  # per request
MAX_BYTES = 1 << 19  # per request: its texts, if most characters are spelled as \uXXXX

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]
Texts = Annotated[list[Text], Field(min_length=2, max_length=MAX_TEXTS)]
# Type of a field of `Endpoint.request` -> the type with limits.
_LIMITED: dict[Any, Any] = {str: Text, str | None: Text | None, list[str]: Texts}


class Request(BaseModel):
    """Any request: unknown fields, and numbers that are spelled as texts, are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


def request_model(kind: type) -> type[Request]:
    """Return the model that validates requests of a dataclass; see `Endpoint.request`."""
    hints = get_type_hints(kind)
    limited: dict[str, Any] = {
        field.name: (
            _LIMITED[hints[field.name]],
            ... if field.default is MISSING else field.default,
        )
        for field in fields(kind)
    }
    return create_model(kind.__name__, __base__=Request, __doc__=kind.__doc__, **limited)


MaybePair = request_model(endpoint.MaybePair)


class Pair(Request):
    """Two texts."""

    text: Text
    pair: Text


class FillMask(Request):
    """A text with [MASK]."""

    text: Text
    top_k: int = Field(5, ge=1, le=100, description="answers per mask")


class Compared(Request):
    """Texts to compare with each other."""

    texts: Texts


class Looked(Request):
    """A text or a pair of texts, and a layer."""

    text: Text
    pair: Text | None = None
    layer: int = Field(1, ge=1, le=1000, description="from 1")


class Error(BaseModel):
    """An error message, in one line."""

    error: str


class Health(BaseModel):
    """The state of the server."""

    status: str


class Described(BaseModel):
    """The model."""

    name: str
    architecture: str
    step: int | None
    parameters: int
    layers: int
    heads: int | None = Field(description="per layer; null without attention")
    hidden_size: int
    vocabulary: int
    tokenizer: str
    length: int = Field(description="most tokens of a row")
    labels: list[str]
    objective: str | None = Field(description="of the pair head: nsp or sop")
    abilities: list[str] = Field(description="endpoints under /api/")


class Filled(BaseModel):
    """A token for a mask."""

    token: str
    id: int
    probability: float
    text: str


class FilledMasks(BaseModel):
    """Answers for every mask, best first."""

    masks: list[list[Filled]]


class Follows(BaseModel):
    """The probability that the second text follows the first."""

    follows: float = Field(description="probability")
    truncated: bool = Field(description="whether the texts were longer than a row")


class Similarity(BaseModel):
    """Cosines of the mean-pooled vectors, one row per text."""

    cosines: list[list[float]]
    truncated: list[bool]


class Piece(BaseModel):
    """A token of the input."""

    piece: str
    id: int
    segment: int
    position: int
    unknown: bool
    special: bool


class Tokenized(BaseModel):
    """The tokens of a row."""

    tokens: list[Piece]
    unknown: int
    longest: int = Field(description="most tokens of a row")


class Attended(BaseModel):
    """Attention of the heads of a layer."""

    tokens: list[Piece]
    layer: int
    heads: list[list[list[float]]] = Field(
        description="per head, the attention of each token (row) to each; rounded to 1e-5"
    )
