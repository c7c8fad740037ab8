"""``bert_jax.load``: a trained model in a program or notebook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from bert_jax import parallel
from bert_jax.convert import MLM
from bert_jax.errors import BadArgumentsError
from bert_jax.state import Params, define
from pipelines.fill_mask import fill_mask
from pipelines.model import Model, open_model
from pipelines.padding import padded

Pooling = Literal["mean", "cls", "max"]


class Bert:
    """A model that is ready to use, on the first device of this process.

    Attributes:
        model: Its weights, network and origin.
        tokenizer: Its own.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens a MODEL: a run, one of its checkpoints, or a folder of others' making.

        Raises:
            BadInputError: There is none, or it is damaged.
        """
        self._layout = parallel.Layout(jax.local_devices()[:1])
        self.model: Model = open_model(Path(path), self._layout)
        self.tokenizer = self.model.tokenizer()

    def encode(
        self,
        texts: Sequence[str],
        layer: int = -1,
        pooling: Pooling | None = "mean",
        batch_size: int = 32,
    ) -> np.ndarray | list[np.ndarray]:
        """Vectors of texts; of a text that is too long, its beginning counts.

        Args:
            texts: Any number of them.
            layer: Whose hidden states: 0 is the embeddings, 1 the first layer, -1 the last.
            pooling: mean or max over all tokens ([CLS] and [SEP] included), cls for the state of
                [CLS], None for all of them.
            batch_size: Texts at a time.

        Returns:
            float32 [texts, hidden size]; without pooling, per text float32 [tokens, hidden size].

        Raises:
            BadArgumentsError: There is no such layer or pooling.
        """
        L, D = self.model.network.layers, self.model.network.hidden_size
        if not -L - 1 <= layer <= L:
            raise BadArgumentsError(f"layer {layer}: the model has 0 (the embeddings) to {L}")
        if pooling not in ("mean", "cls", "max", None):
            raise BadArgumentsError(f"pooling {pooling!r}: choose mean, cls, max or None")
        if batch_size < 1:
            raise BadArgumentsError(f"batch_size must be at least 1, not {batch_size}")
        ids = self._ids(texts)
        found: list[Any] = [None] * len(ids)
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for first in range(0, len(ids), batch_size):
            rows = by_length[first : first + batch_size]
            longest = self.model.network.max_positions
            texts_here = [ids[row] for row in rows]
            token_ids = padded(
                texts_here, min(batch_size, len(ids)), self.tokenizer.pad_id, longest
            )
            states = self._states(self._params, token_ids, layer % (L + 1), pooling)
            for row, vectors in zip(rows, np.asarray(states), strict=False):
                found[row] = vectors if pooling else vectors[: len(ids[row])]
        if pooling is None:
            return found
        return np.stack(found) if found else np.zeros((0, D), np.float32)

    def fill_mask(self, text: str, top_k: int = 5) -> list[list[dict[str, Any]]]:
        """The most probable tokens for every [MASK] of a text; see `pipelines.fill_mask`."""
        if not isinstance(text, str):
            raise BadArgumentsError(f"text must be a string, not {text!r:.60}")
        self.model.require(MLM)
        return fill_mask(self._params, self.model.network, self.tokenizer, text, top_k)

    @cached_property
    def _params(self) -> Params:
        return self.model.pretraining_params(self._layout)

    @cached_property
    def _states(self) -> Callable[..., Array]:
        states = partial(_states, define(self.model.network), self.tokenizer.pad_id)
        return jax.jit(states, static_argnums=(2, 3))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise BadArgumentsError("texts must be a list of texts, not one text")
        for text in texts:
            if not isinstance(text, str):
                raise BadArgumentsError(f"texts must be strings, not {text!r:.60}")
            if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
                raise BadArgumentsError(
                    f"{text[:60]!r} is not Unicode text (half a surrogate pair)"
                )
        room = self.model.network.max_positions - 2
        tokenizer = self.tokenizer
        return [
            [tokenizer.cls_id, *ids[:room], tokenizer.sep_id] for ids in tokenizer.encode(texts)
        ]


def _states(
    network: nnx.GraphDef,
    pad_id: int,
    params: Params,
    token_ids: Array,
    layer: int,
    pooling: Pooling | None,
) -> Array:
    """float32 [B, D], or [B, T, D] without pooling."""
    bert = nnx.merge(network, params).bert
    there = token_ids != pad_id
    ids = there.astype(jnp.int32)
    last, inputs = bert.hidden_states(token_ids, jnp.zeros_like(ids), ids)
    states = (last if layer == inputs.shape[0] else inputs[layer]).astype(jnp.float32)
    if pooling == "cls":
        return states[:, 0]
    if pooling == "max":
        return jnp.max(jnp.where(there[..., None], states, -jnp.inf), axis=1)
    if pooling == "mean":
        count = jnp.maximum(jnp.sum(ids, axis=1), 1)[:, None]  # rows that fill up have none
        return jnp.einsum("BTD,BT->BD", states, there.astype(jnp.float32)) / count
    return states
