"""Requests and responses of question answering."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.tasks.endpoint import Endpoint, Field


@dataclass(frozen=True)
class Question:
    """A question about a passage."""

    question: str
    context: str


@dataclass(frozen=True)
class Answer:
    """Part of a passage; without start and end, the passage has no answer."""

    answer: str
    start: int | None
    end: int | None
    score: float
    probability: float


@dataclass(frozen=True)
class Answered(Answer):
    """The answer to a question."""

    null_odds: float
    n_best: list[Answer]


ENDPOINT = Endpoint(
    Question,
    Answered,
    title="Question answering",
    text="The part of a passage that answers a question, marked in the passage.",
    button="Answer",
    fields={
        "question": Field("Question", "What did the captain repair?", rows=1),
        "context": Field(
            "Passage",
            "On Monday the captain repaired the broken clock behind the house. The sailor, who was"
            " his brother, carried a small lamp to the river.",
            rows=8,
        ),
    },
)
