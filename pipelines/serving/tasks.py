"""A fine-tuned model that answers single requests, through the same steps as ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.models.predict import ranked, row_length, task_network_of, task_of
from pipelines.data.sources.documents import paragraphs, split_sentences
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.open import LoadedModel
from pipelines.serving.batching import Row
from pipelines.tasks import multiple_choice, table_reader
from pipelines.tasks.qa import read
from pipelines.tasks.ranking import Candidate
from pipelines.tasks.registry import open_task
from pipelines.tasks.summarization import task as summarization
from pipelines.tasks.tagging import conll
from pipelines.tasks.task import Features, Record, Task

MOST_ROWS = 128  # of a request: a long passage has several
_ID = "0"
# What the network reads; the others are for learning.
_INPUTS = ("token_ids", "token_type_ids", "segment_ids", "cls_positions")


@dataclass(frozen=True)
class ServedTask:
    """What a fine-tuned model was trained for.

    Attributes:
        name: Of the task.
        language: For splitting documents into sentences.
        task: Makes rows of examples and answers of logits.
        network: With its head.
        tokenizer: The model's.
        classes: Names of its outputs.
        length: Most tokens of a row.
    """

    name: str
    language: str
    task: Task
    network: TaskNetwork
    tokenizer: Tokenizer
    classes: tuple[str, ...]
    length: int

    @classmethod
    def of(cls, model: LoadedModel, tokenizer: Tokenizer) -> ServedTask:
        """The task of a model that has a head.

        Raises:
            BadInputError: It is not known what for.
        """
        name, head, options = task_of(model)
        task = open_task(name, options)
        network, labels = task_network_of(model, task, head), tuple(model.weights.labels)
        length = row_length(model)
        return cls(name, options.language, task, network, tokenizer, labels, length)

    @property
    def abilities(self) -> tuple[str, ...]:
        """Endpoints; two classes of pairs may be irrelevant and relevant."""
        ranks = self.name == "classification" and len(self.classes) == 2
        return (self.name, "ranking") if ranks else (self.name,)

    def features(self, examples: Sequence[Any]) -> Features:
        """The rows of one request.

        Raises:
            BadArgumentsError: There are too many.
        """
        features = self.task.features(examples, self.tokenizer, self.length, self.classes)
        ids = features.arrays["token_ids"]
        count = ids.size // ids.shape[-1]
        if count > MOST_ROWS:
            raise BadArgumentsError(
                f"the text makes {count} rows of {self.length} tokens; at most {MOST_ROWS} are"
                " answered here, so send less of it, or use bert-jax predict"
            )
        return features

    def rows(self, features: Features) -> list[Row]:
        """Of the network; the choices of a question are rows of their own."""
        arrays = {name: features.arrays[name] for name in _INPUTS if name in features.arrays}
        flat = {name: array.reshape(-1, array.shape[-1]) for name, array in arrays.items()}
        return [
            {name: array[number] for name, array in flat.items()}
            for number in range(len(flat["token_ids"]))
        ]

    def answer(
        self, examples: Sequence[Any], features: Features, found: Sequence[np.ndarray]
    ) -> list[Record]:
        """What `Task.predict` says, given the network's answer to each row."""
        shape = features.arrays["token_ids"].shape
        if len(shape) == 3:  # [R, C, T] of multiple choice: one score each
            logits = np.stack(found).reshape(*shape[:2], -1)
        else:
            # One [CLS], unless every sentence has its own.
            places = features.arrays.get("cls_positions", np.zeros((1, 1)))
            count = shape[1] if self.network.tokens else places.shape[1]
            logits = np.stack([row[:count] for row in found])
        return self.task.predict(examples, features, logits, self.classes)

    def truncated(self, examples: Sequence[Any]) -> bool:
        """Whether texts of these pairs are cut."""
        texts = [(one.text, one.pair) for one in examples]
        a, b = (self.tokenizer.encode(side) for side in zip(*texts, strict=True))
        needed = (len(x) + len(y) + 2 + bool(y) for x, y in zip(a, b, strict=True))
        return any(count > self.length for count in needed)


def texts_of(text: str, pair: str | None) -> list[table_reader.Example]:
    """An example of classification and regression."""
    return [table_reader.Example(_ID, text, pair or "")]


def passages_of(query: str, passages: Sequence[str]) -> list[Any]:
    """Candidates for a query, whose ids are their numbers."""
    return [
        Candidate(str(number), query, passage, query_id=_ID)
        for number, passage in enumerate(passages)
    ]


def in_order(
    examples: Sequence[Any], records: Sequence[Record], classes: Sequence[str]
) -> list[Record]:
    """Ranked passages, best first."""
    return [
        {"index": int(record["id"]), "rank": record["rank"], "score": record["score"]}
        for record in ranked(examples, records, classes)
    ]


def words_of(text: str) -> list[conll.Sentence]:
    """An example of tagging.

    Raises:
        BadArgumentsError: There is no word.
    """
    words, starts = conll.split_words(text)
    if not words:
        raise BadArgumentsError("the text has no words")
    return [conll.Sentence(_ID, words, None, text, starts, 0, "the request", 1)]


def question_of(question: str, context: str) -> list[read.Question]:
    """An example of question answering."""
    return [read.Question(_ID, question, context)]


def choices_of(text: str, choices: Sequence[str]) -> list[multiple_choice.Question]:
    """An example of multiple choice."""
    return [multiple_choice.Question(_ID, text, tuple(choices))]


def document_of(text: str, language: str) -> list[summarization.Example]:
    """An example of summarisation.

    Raises:
        BadArgumentsError: There is no sentence.
    """
    sentences = split_sentences(paragraphs(text), language)
    if not sentences:
        raise BadArgumentsError("the document has no sentence")
    return [summarization.Example(_ID, tuple(sentences), None)]
