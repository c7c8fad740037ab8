"""What the API takes and gives; the OpenAPI document is made of these."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CHARACTERS = 10_000  # of a text
TEXTS = 16  # of a request
BODY_BYTES = 1 << 19  # the texts of a request, most of them spelled as \uXXXX

Text = Annotated[str, Field(min_length=1, max_length=CHARACTERS, pattern=r"\S")]
Texts = Annotated[list[Text], Field(min_length=2, max_length=TEXTS)]


class Request(BaseModel):
    """Any request: nothing unknown, and no number that is written as a text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Single(Request):
    """A text."""

    text: Text


class MaybePair(Single):
    """A text or two."""

    pair: Text | None = None


class Pair(Single):
    """Two texts."""

    pair: Text


class FillMask(Single):
    """A text with [MASK] in it."""

    top_k: int = Field(5, ge=1, le=100, description="answers for each mask")


class Compared(Request):
    """Texts to compare with each other."""

    texts: Texts


class Question(Request):
    """A question about a passage."""

    question: Text
    context: Text


class Choices(Single):
    """A text and what may follow it."""

    choices: Texts


class Ranked(Request):
    """A query and passages."""

    query: Text
    passages: Texts


class Looked(MaybePair):
    """A text or two, and a layer to look into."""

    layer: int = Field(1, ge=1, le=1000, description="from 1")


class Error(BaseModel):
    """What went wrong, in one line."""

    error: str


class Health(BaseModel):
    """That the model answers."""

    status: str


class Described(BaseModel):
    """What is served."""

    name: str
    architecture: str
    step: int | None
    parameters: int
    layers: int
    heads: int | None = Field(description="of a layer; null without attention")
    hidden_size: int
    vocabulary: int
    tokenizer: str
    length: int = Field(description="most tokens of a row")
    labels: list[str]
    objective: str | None = Field(description="of the pair head: nsp or sop")
    abilities: list[str] = Field(description="endpoints under /api/")


class Filled(BaseModel):
    """A token in place of a mask."""

    token: str
    id: int
    probability: float
    text: str


class FilledMasks(BaseModel):
    """Answers for every mask, best first."""

    masks: list[list[Filled]]


class Follows(BaseModel):
    """Whether the second text follows the first."""

    follows: float = Field(description="probability")
    truncated: bool = Field(description="whether texts were cut to what the model takes")


class Similarity(BaseModel):
    """Cosines of the mean-pooled vectors, a row per text."""

    cosines: list[list[float]]
    truncated: list[bool]


class Classified(BaseModel):
    """A class."""

    label: str
    probabilities: dict[str, float]
    truncated: bool


class Measured(BaseModel):
    """A number."""

    value: float
    truncated: bool


class Entity(BaseModel):
    """Words that belong together; start and end are characters of the text."""

    text: str
    label: str
    start: int
    end: int
    score: float


class Tagged(BaseModel):
    """Words with their tags."""

    tokens: list[str]
    tags: list[str]
    entities: list[Entity]


class Answer(BaseModel):
    """Part of a passage; without start and end it says that there is no answer."""

    answer: str
    start: int | None
    end: int | None
    score: float
    probability: float


class Answered(Answer):
    """The answer to a question."""

    null_odds: float
    n_best: list[Answer]


class Chosen(BaseModel):
    """The choice that fits best."""

    label: int
    choice: str
    probabilities: list[float]
    truncated: bool


class RankedPassage(BaseModel):
    """A passage, by its number in the request, from 0."""

    index: int
    rank: int
    score: float


class Ranking(BaseModel):
    """The passages, best first."""

    ranking: list[RankedPassage]
    truncated: bool


class Summary(BaseModel):
    """Chosen sentences of a document, by their numbers from 0."""

    summary: str
    document: list[str]
    sentences: list[int]
    scores: list[float]


class Piece(BaseModel):
    """A token of the input."""

    piece: str
    id: int
    segment: int
    position: int
    unknown: bool
    special: bool


class Tokenized(BaseModel):
    """A row as the network sees it."""

    tokens: list[Piece]
    unknown: int
    longest: int = Field(description="tokens that the model takes")


class Attended(BaseModel):
    """Attention of a layer's heads."""

    tokens: list[Piece]
    layer: int
    heads: list[list[list[float]]] = Field(
        description="of each head, how much each token (row) takes from each; rounded to 1e-5"
    )
