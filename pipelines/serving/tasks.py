"""A fine-tuned model that answers single requests, with the same steps as ``predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.open import LoadedModel
from pipelines.models.predict import open_task_of, row_length, task_network_of, task_of
from pipelines.serving.batching import Row
from pipelines.tasks.registry import uses
from pipelines.tasks.task import Features, Record, Task

MAX_ROWS = 128  # per request; a long passage has several
# The inputs of the network; other arrays are for training.
_INPUTS = ("token_ids", "token_type_ids", "segment_ids", "cls_positions")


@dataclass(frozen=True)
class ServedTask:
    """The task of a fine-tuned model.

    Attributes:
        tasks: Endpoint -> the task that makes rows of requests and answers of logits.
        network: The network with its head.
        tokenizer: The tokenizer of the model.
        classes: Names of the outputs.
        length: Most tokens of a row.
        text_columns: Of the training data; see `Task.text_columns`.
    """

    tasks: Mapping[str, Task]
    network: TaskNetwork
    tokenizer: Tokenizer
    classes: tuple[str, ...]
    length: int
    text_columns: tuple[str, ...]

    @classmethod
    def of(cls, model: LoadedModel, tokenizer: Tokenizer) -> ServedTask:
        """Return the task of a model with a head.

        Raises:
            BadInputError: The task of the head is unknown.
        """
        name, head, options = task_of(model)
        task, classes = open_task_of(model), tuple(model.weights.labels)
        network = task_network_of(model, task, head)
        single = len(model.weights.text_columns) == 1
        tasks = {
            use.name: task if use is type(task) else use(options)
            for use in uses(name, classes)
            if not (single and use.needs_pairs)
        }
        length, columns = row_length(model), model.weights.text_columns
        return cls(tasks, network, tokenizer, classes, length, columns)

    def features(self, task: Task, examples: Sequence[Any]) -> Features:
        """Return the rows of a request.

        Raises:
            BadArgumentsError: There are too many.
            BadInputError: There are more or fewer texts than in the training data.
        """
        task.check_texts(examples, self.text_columns)
        features = task.features(examples, self.tokenizer, self.length, self.classes)
        features.require_token_types(self.network.config)
        ids = features.arrays["token_ids"]
        count = ids.size // ids.shape[-1]
        if count > MAX_ROWS:
            raise BadArgumentsError(
                f"the text has {count} rows of {self.length} tokens, but a request has at most"
                f" {MAX_ROWS}; send a shorter text, or run bert-jax predict"
            )
        return features

    def rows(self, features: Features) -> list[Row]:
        """Return the rows for the network; every choice of a question is one."""
        arrays = {name: features.arrays[name] for name in _INPUTS if name in features.arrays}
        flat = {name: array.reshape(-1, array.shape[-1]) for name, array in arrays.items()}
        return [
            {name: array[number] for name, array in flat.items()}
            for number in range(len(flat["token_ids"]))
        ]

    def response(
        self, task: Task, examples: Sequence[Any], features: Features, outputs: Sequence[np.ndarray]
    ) -> Record:
        """Return the answer to a request, from the network's output for each row."""
        shape = features.arrays["token_ids"].shape
        if len(shape) == 3:  # [R, C, T] of multiple choice: one score each
            logits = np.stack(outputs).reshape(*shape[:2], -1)
        else:
            # One [CLS] token, or one per sentence.
            positions = features.arrays.get("cls_positions", np.zeros((1, 1)))
            count = shape[1] if self.network.tokens else positions.shape[1]
            logits = np.stack([output[:count] for output in outputs])
        records = task.predict(examples, features, logits, self.classes)
        truncated = bool((features.lengths > self.length).any())
        return task.response(examples, records, self.classes) | {"truncated": truncated}
