"""Hidden states of many texts, several texts in a row of the network.

Texts of up to 128 tokens share rows of one length, longer ones those of a power of two, so that
few programs are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.nn.encoder import BertModel
from pipelines.data.batches.padding import padded, padded_length
from pipelines.tasks.packing import MOST, Rows, best_fit, packed_inputs, slots_per_row
from pipelines.tasks.task import Arrays

Pooling = Literal["mean", "cls", "max"]
# (arrays of a batch, most texts per row) -> float32 [layers, B, K, D], or [layers, B, T, D].
Compute = Callable[[Arrays, int], Array]

_SHORT = 128  # tokens of the shortest kind of row for many texts
_FEW = 8  # a batch is not more than so many times larger than needed
_MORE = 1.25  # rows, relative to the fewest, that are accepted for a program that is compiled


@dataclass
class StatesOfTexts:
    """Computes the hidden states of texts, and remembers the shapes that are compiled.

    Attributes:
        compute: The compiled function.
        longest: Most tokens of a text.
        shapes: T -> (B, K) of the newest batches.
    """

    compute: Compute
    longest: int
    shapes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __call__(
        self,
        token_ids: Sequence[Sequence[int]],
        token_type_ids: Sequence[Sequence[int]],
        pooled: bool,
        batch_size: int,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the index of each text and its states, float32 [layers, D] or [layers, n, D].

        Args:
            token_ids: Of each text, with special tokens; 1 to `longest`.
            token_type_ids: Of each token.
            pooled: Texts have one vector per layer, otherwise one per token (n).
            batch_size: Most rows per batch.
        """
        for T, texts in self._kinds(list(map(len, token_ids))).items():
            lengths = [len(token_ids[text]) for text in texts]
            arrays = {
                "token_ids": padded([token_ids[text] for text in texts], len(texts), 0, T),
                "token_type_ids": padded(
                    [token_type_ids[text] for text in texts], len(texts), 0, T
                ),
                "segment_ids": padded([[1] * n for n in lengths], len(texts), 0, T),
            }
            rows, B, K = self._shape(T, lengths, batch_size)
            waiting: tuple[Rows, Array] | None = None
            for first in range(0, len(rows), B):
                chosen = rows[first : first + B]
                filled = chosen + [[]] * (B - len(chosen))
                # The device computes one batch while the one before is fetched.
                launched = self.compute(packed_inputs(arrays, filled), K)
                if waiting:
                    yield from _apart(*waiting, texts, lengths, pooled)
                waiting = chosen, launched
            if waiting:
                yield from _apart(*waiting, texts, lengths, pooled)

    def _kinds(self, lengths: Sequence[int]) -> dict[int, list[int]]:
        """Return the indices of the texts that are packed together, by the length of their rows."""
        of_row = [padded_length(length, self.longest) for length in lengths]
        short = max((T for T in of_row if T <= _SHORT), default=0)
        kinds: dict[int, list[int]] = {}
        for text, T in enumerate(of_row):
            kinds.setdefault(max(T, short), []).append(text)
        return kinds

    def _shape(self, length: int, lengths: Sequence[int], batch_size: int) -> tuple[Rows, int, int]:
        """Return the texts of each row, B and K."""
        fewest = best_fit(lengths, length, MOST)
        B, K = self.shapes.get(length, (0, 1))
        enough = slots_per_row(fewest)
        rows = fewest if enough <= K else best_fit(lengths, length, K)
        needed = min(batch_size, 1 << (len(rows) - 1).bit_length())
        fits = needed <= B <= min(batch_size, _FEW * needed)
        if not fits or len(rows) > _MORE * len(fewest):
            # A power of two, so that other texts need the same compiled programs.
            rows, K = fewest, max(K, enough)
            B = min(batch_size, 1 << (len(rows) - 1).bit_length())
            self.shapes[length] = B, K
        return rows, B, K


def _apart(
    rows: Rows, states: Array, texts: Sequence[int], lengths: Sequence[int], pooled: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the states of each text of a batch."""
    fetched = np.asarray(states)
    for row, members in enumerate(rows):
        start = 0
        for place, member in enumerate(members):
            end = start + lengths[member]
            part = fetched[:, row, place] if pooled else fetched[:, row, start:end]
            yield texts[member], part.copy()  # a view would keep the whole batch
            start = end


def hidden_states(
    bert: BertModel,
    batch: dict[str, Array],
    layers: tuple[int, ...],
    pooling: Pooling | None,
    most: int = 1,
) -> Array:
    """Return float32 [layers, B, K, D], or without pooling [layers, B, T, D].

    Args:
        bert: The encoder.
        batch: ``token_ids``, ``token_type_ids`` and ``segment_ids``, int [B, T]; rows of several
            texts also have ``position_ids``.
        layers: From 0, the embeddings, to L.
        pooling: mean or max over the tokens of a text, cls for its first, None for all tokens.
        most: K, texts per row; those that a row does not have become zeros.
    """
    segment_ids = batch["segment_ids"]
    last, inputs = bert.hidden_states(
        *(batch["token_ids"], batch["token_type_ids"], segment_ids),
        position_ids=batch.get("position_ids"),
    )
    L = inputs.shape[0]
    states = jnp.stack([last if layer == L else inputs[layer] for layer in layers])
    states = states.astype(jnp.float32)  # [layers, B, T, D]
    if pooling is None:
        return states
    numbers = jnp.arange(1, most + 1, dtype=segment_ids.dtype)
    of_text = segment_ids[:, :, None] == numbers[None, None]  # [B, T, K]
    if pooling == "max":
        return _largest(states, of_text)
    if pooling == "cls":
        before = jnp.pad(of_text[:, :-1], ((0, 0), (1, 0), (0, 0)))
        weights = (of_text & ~before).astype(jnp.float32)
    else:
        count = jnp.maximum(jnp.sum(of_text, axis=1, keepdims=True), 1)  # [B, 1, K]
        weights = of_text / count.astype(jnp.float32)
    # Without the precision, TPUs would round the states to bfloat16.
    return jnp.einsum("LBTD,BTK->LBKD", states, weights, precision=jax.lax.Precision.HIGHEST)


def _largest(states: Array, of_text: Array) -> Array:
    """Return the maxima over the tokens of each text, [layers, B, K, D]; a text at a time."""

    def largest(member: Array) -> Array:  # [B, T]
        inside = jnp.where(member[None, ..., None], states, -jnp.inf)
        return jnp.where(jnp.any(member, axis=1)[None, :, None], jnp.max(inside, axis=2), 0.0)

    return jnp.moveaxis(jax.lax.map(largest, jnp.moveaxis(of_text, 2, 0)), 0, 2)
