"""Config of a task head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bert_jax.config.run import free
from bert_jax.runtime.errors import BadInputError, at_least, fraction

# Name -> which of the L + 1 hidden states (0 is the embeddings, -1 the last layer), and how several
# become one (paper, section 5.3).
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
    """What stands on the encoder, and what of it all is trained.

    Args:
        kind: linear, or bilstm: a bidirectional LSTM before the linear map (tokens only).
        features: Hidden states that the head sees: last, second-to-last, embeddings, sum-last-4,
            concat-last-4, weighted-last-4 or weighted-all (learned weights).
        lstm_layers: Of a bilstm head.
        dropout: Before the linear map.
        trainable: all, head, or last-N: the head and the N last layers.
        layer_decay: Learning rate of a layer relative to that of the layer above it.
    """

    kind: Literal["linear", "bilstm"] = "linear"
    features: str = "last"
    lstm_layers: int = 2
    dropout: float = free(0.1)
    trainable: str = free("all")
    layer_decay: float = free(1.0)

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.features not in FEATURES:
            raise BadInputError(f"head.features {self.features!r}: choose {', '.join(FEATURES)}")
        if not 0 < self.layer_decay <= 1:
            raise BadInputError(f"head.layer_decay must be in (0, 1], not {self.layer_decay}")
        fraction("head", self, "dropout")
        at_least("head", self, 1, "lstm_layers")
        self.frozen_layers(1)

    def frozen_layers(self, layers: int) -> int:
        """How many of the first `layers` are not trained; below them neither are the embeddings.

        Raises:
            BadInputError: ``trainable`` is not one of its values.
        """
        if self.trainable == "all":
            return 0
        if self.trainable == "head":
            return layers
        number = self.trainable.removeprefix("last-")
        if number == self.trainable or not number.isdecimal() or int(number) < 1:
            raise BadInputError(
                f"head.trainable {self.trainable!r}: choose all, head, or last-N such as last-2"
            )
        return max(0, layers - int(number))
