"""Config of a task head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bert_jax.config.resume_policies import free
from bert_jax.runtime.errors import BadInputError, at_least, fraction

# Name -> indices of the L + 1 hidden states (0 is the embeddings, -1 the last layer), and how they
# are combined (paper, section 5.3).
FEATURES: dict[str, tuple[tuple[int, ...] | None, str]] = {
    "last": ((-1,), "sum"),
    "second-to-last": ((-2,), "sum"),
    "embeddings": ((0,), "sum"),
    "sum-last-4": ((-4, -3, -2, -1), "sum"),
    "concat-last-4": ((-4, -3, -2, -1), "concat"),
    "weighted-last-4": ((-4, -3, -2, -1), "weighted"),
    "weighted-all": (None, "weighted"),
}


@dataclass(frozen=True)
class HeadConfig:
    """The task head, and the layers that are trained.

    Args:
        kind: linear, or bilstm (a bidirectional LSTM before the linear layer; tagging and qa only).
        features: Hidden states that the head receives: last, second-to-last, embeddings,
            sum-last-4, concat-last-4, weighted-last-4 or weighted-all (learned weights).
        lstm_layers: Number of LSTM layers of a bilstm head.
        dropout: Dropout rate before the linear layer.
        trainable: Trained parameters: all, head, or last-N (the head and the last N layers).
        layer_decay: Learning rate of a layer relative to the layer above it.
        init: The head of the initial model: auto (keep it if task and classes are the same), keep
            (with its classes) or new.
    """

    kind: Literal["linear", "bilstm"] = "linear"
    features: str = "last"
    lstm_layers: int = 2
    dropout: float = free(0.1)
    trainable: str = free("all")
    layer_decay: float = free(1.0)
    init: Literal["auto", "keep", "new"] = free("auto", "silent")

    def __post_init__(self) -> None:
        """Check the values."""
        if self.features not in FEATURES:
            raise BadInputError(
                f"head.features {self.features!r} is unknown; choose one of {', '.join(FEATURES)}"
            )
        if not 0 < self.layer_decay <= 1:
            raise BadInputError(f"head.layer_decay must be in (0, 1], not {self.layer_decay}")
        fraction("head", self, "dropout")
        at_least("head", self, 1, "lstm_layers")
        self.frozen_layers(1)

    def frozen_layers(self, layers: int) -> int:
        """Return how many of the first `layers` are frozen.

        Raises:
            BadInputError: ``trainable`` has an invalid value.
        """
        if self.trainable == "all":
            return 0
        if self.trainable == "head":
            return layers
        number = self.trainable.removeprefix("last-")
        if number == self.trainable or not number.isdecimal() or int(number) < 1:
            raise BadInputError(
                f"head.trainable {self.trainable!r} is invalid; use all, head or last-N"
            )
        return max(0, layers - int(number))
