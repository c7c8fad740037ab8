"""The inputs of a training step.

Two kinds of segments meet here: ``token_type_ids`` tell A from B, as in transformers (which
google-research/bert calls segment_ids); ``segment_ids`` number the sequences of a packed row, as in
JAX libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# Name -> (dimensions, dtype). B rows, T tokens, P predictions, K sequences of a row: 1 unless
# several are packed into one.
FIELDS: dict[str, tuple[str, type[np.generic]]] = {
    "token_ids": ("BT", np.int32),  # [CLS] A [SEP] B [SEP], then padding
    "token_type_ids": ("BT", np.int32),  # 0 through the first [SEP], then 1; padding 0
    "segment_ids": ("BT", np.int32),  # 1 … K: tokens see those of their own sequence; padding 0
    "mlm_positions": ("BP", np.int32),  # ascending; unused slots 0
    "mlm_targets": ("BP", np.int32),  # token before masking; unused slots 0
    "mlm_weights": ("BP", np.float32),  # 1, unused slots 0
    "nsp_labels": ("BK", np.int32),  # 1 if B does not follow A, 0 if it does
    "nsp_weights": ("BK", np.float32),  # 1; 0 without B and for filled-up rows of an evaluation
}
# Only in packed batches.
PACKED_FIELDS: dict[str, tuple[str, type[np.generic]]] = {
    "position_ids": ("BT", np.int32),  # from 0 in every sequence; padding 0
    "cls_positions": ("BK", np.int32),  # where each sequence begins; unused slots 0
}

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[tuple[int, ...], Any]]  # name of an array -> its shape and dtype


@dataclass(frozen=True)
class Batch:
    """This process's rows of a global batch.

    Attributes:
        arrays: One array per field of FIELDS and, if packed, of PACKED_FIELDS.
        tokens: Number of tokens in the global batch, without padding.
        sequences: Number of sequences in the global batch; more than rows where packed.
    """

    arrays: Arrays
    tokens: int
    sequences: int


@dataclass(frozen=True)
class BatchShape:
    """The static sizes of a batch.

    Attributes:
        rows: B.
        length: T.
        predictions: P.
        sequences: K; 0 for batches without packing.
    """

    rows: int
    length: int
    predictions: int
    sequences: int = 0

    def fields(self) -> Shapes:
        """Return shape and dtype of every field."""
        sizes = {"B": self.rows, "T": self.length, "P": self.predictions}
        sizes["K"] = max(1, self.sequences)
        names = FIELDS | PACKED_FIELDS if self.sequences else FIELDS
        return {name: (tuple(sizes[d] for d in dims), kind) for name, (dims, kind) in names.items()}


class TrainingData(Protocol):
    """A source of batches; `rows` are this process's rows of the global batch.

    Attributes:
        digests: Identify the data when a run is resumed.
    """

    digests: dict[str, str]

    def shapes(self, length: int, batch_size: int) -> Sequence[Shapes]:
        """Return the shapes and dtypes that a global batch of a phase can have.

        Each is a program to compile; they differ in the number of rows.
        """

    def batches(self, first: int, last: int, rows: slice) -> Iterator[Batch]:
        """Yield the batches of steps first, first + 1, … last - 1 (all in one phase)."""
