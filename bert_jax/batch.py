"""What a training step is fed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Name -> (dimensions, dtype). B sequences, T tokens, P predictions.
FIELDS: dict[str, tuple[str, type[np.generic]]] = {
    "token_ids": ("BT", np.int32),  # [CLS] A [SEP] B [SEP], then padding
    "segment_ids": ("BT", np.int32),  # 0 through the first [SEP], then 1; padding 0
    "attention_mask": ("BT", np.bool_),  # False at padding
    "mlm_positions": ("BP", np.int32),  # ascending; unused slots 0
    "mlm_targets": ("BP", np.int32),  # token before masking; unused slots 0
    "mlm_weights": ("BP", np.float32),  # 1, unused slots 0
    "nsp_labels": ("B", np.int32),  # 1 if B is from another document, 0 if it follows A
    "nsp_weights": ("B", np.float32),  # 1, filled-up sequences of an evaluation 0
}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """This process's rows of a batch.

    Attributes:
        arrays: One array per field of FIELDS.
        tokens: Tokens of the whole batch, over all processes, without padding.
    """

    arrays: Arrays
    tokens: int


def shapes(batch_size: int, length: int, predictions: int) -> dict[str, tuple[int, ...]]:
    """The shape of every field."""
    sizes = {"B": batch_size, "T": length, "P": predictions}
    return {name: tuple(sizes[letter] for letter in dims) for name, (dims, _) in FIELDS.items()}


class TrainingData(Protocol):
    """Where the loop gets its batches; `rows` are this process's rows of the global batch."""

    def batches(self, first: int, last: int, rows: slice) -> Iterator[Batch]:
        """The batches of steps first, first + 1, … last - 1 (all in one phase)."""

    def heldout(self, length: int, batch_size: int, rows: slice, limit: int) -> Iterator[Batch]:
        """The batches of held-out text: at most `limit` unless that is 0."""
