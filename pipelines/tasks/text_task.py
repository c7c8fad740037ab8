"""What tasks of a text or a pair of texts have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.endpoint import MaybePair
from pipelines.tasks.tables.examples import NO_PAIR, Example
from pipelines.tasks.tables.table import option
from pipelines.tasks.task import REQUEST_ID, Task


class TextTask(Task, ABC):
    """A task whose examples are `Example`."""

    def text_columns(self, examples: Sequence[Example]) -> list[str]:
        return list(examples[0].columns) if examples else []

    def check_texts(self, examples: Sequence[Example], trained: Sequence[str]) -> None:
        """See `Task.check_texts`."""
        if not trained:
            return
        pairs = len(trained) > 1
        for example in examples:
            if (bool(example.pair) or len(example.columns) > 1) == pairs:
                continue
            names = " and ".join(map(repr, example.columns))
            where = f"{example.where}: only {names} is read" if names else "there is one text"
            if pairs:
                remedy = option("pair", "NAME") if names else "the second text as pair"
                raise BadInputError(
                    f"{where}, but the model was trained on pairs ({' and '.join(trained)}); add"
                    f" {remedy}"
                )
            where = f"{example.where}: {names} are read" if names else "there are two texts"
            remedy = f"add {option('text', 'NAME')} and {option('pair', NO_PAIR)}"
            raise BadInputError(
                f"{where}, but the model was trained on single texts ({trained[0]});"
                f" {remedy if names else 'leave out the pair'}"
            )

    def from_request(self, request: MaybePair) -> list[Any]:
        return [Example(REQUEST_ID, request.text, request.pair or "")]
