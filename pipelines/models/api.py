"""``bert_jax.load``: a trained model in a program or notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from bert_jax.config.run import ModelConfig
from bert_jax.nn.encoder import BertModel, Params, define
from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.runtime.paths import at
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.padding import padded
from pipelines.data.sources.files import HALF_CHARACTER
from pipelines.models.fill_mask import fill_mask
from pipelines.models.open import LoadedModel, open_model

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
        self._layout = Partitioner(jax.local_devices()[:1])
        self.model: LoadedModel = open_model(at(path), self._layout)
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
            BadArgumentsError: There is no such layer or pooling, `batch_size` is below 1, or
                `texts` is not a list of Unicode strings.

        Source: layers as features, Devlin et al. 2018, section 5.3; pooling as in Sentence-BERT
        (Reimers and Gurevych 2019, section 3).
        """
        check_layers(self.model.network, (layer,))
        if pooling not in ("mean", "cls", "max", None):
            raise BadArgumentsError(f"pooling {pooling!r}: choose mean, cls, max or None")
        if batch_size < 1:
            raise BadArgumentsError(f"batch_size must be at least 1, not {batch_size}")
        ids = self._ids(texts)
        segments = [[0] * len(one) for one in ids]
        found: list[Any] = [None] * len(ids)
        for rows, states in self.states(ids, segments, (layer,), pooling, batch_size):
            for row, vectors in zip(rows, states[0], strict=True):
                found[row] = vectors if pooling else vectors[: len(ids[row])]
        if pooling is None:
            return found
        D = self.model.network.hidden_size
        return np.stack(found) if found else np.zeros((0, D), np.float32)

    def states(
        self,
        token_ids: Sequence[Sequence[int]],
        token_type_ids: Sequence[Sequence[int]],
        layers: Sequence[int],
        pooling: Pooling | None,
        batch_size: int,
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Hidden states of sequences, a batch of like length at a time and the shortest first.

        Args:
            token_ids: Of each sequence, special tokens included; none longer than the model takes.
            token_type_ids: Of each token.
            layers: See `encode`; several cost no more than the highest one.
            pooling: See `encode`.
            batch_size: Sequences at a time.

        Yields:
            Numbers of B sequences, and float32 [layers, B, D], without pooling [layers, B, T, D],
            where T is the length of the longest or more.
        """
        L, longest = self.model.network.layers, self.model.network.max_positions
        which = tuple(layer % (L + 1) for layer in layers)
        by_length = sorted(range(len(token_ids)), key=lambda row: len(token_ids[row]))
        B = min(batch_size, len(token_ids))
        for first in range(0, len(token_ids), batch_size):
            rows = by_length[first : first + batch_size]
            ids = padded([token_ids[row] for row in rows], B, self.tokenizer.pad_id, longest)
            segments = padded([token_type_ids[row] for row in rows], B, 0, longest)
            states = self._states(self._params, ids, segments, which, pooling)
            yield rows, np.asarray(states)[:, : len(rows)]

    def fill_mask(self, text: str, top_k: int = 5) -> list[list[dict[str, Any]]]:
        """The most probable tokens for every [MASK] of a text.

        Each mask is filled on its own; the others stay in the text.

        Args:
            text: One sequence with at least one [MASK], not longer than the model takes.
            top_k: Answers for each mask, at least 1.

        Returns:
            Per mask, in the order of the text, a list of `top_k` answers, the most probable first:
            ``token`` (text), ``id`` (int), ``probability`` (float in [0, 1], softmax over the
            vocabulary) and ``text``, where this mask is filled in.

        Raises:
            BadArgumentsError: `text` is no Unicode string, has no mask or too many tokens, or
                `top_k` is below 1.
            BadInputError: The model has no masked language head.

        Source: the masked language model of Devlin et al. 2018, section 3.1.
        """
        if not isinstance(text, str):
            raise BadArgumentsError(f"text must be a string, not {text!r:.60}")
        self.model.require_masked_language_head()
        return fill_mask(self._params, self.model.network, self.tokenizer, text, top_k)

    def predict(self, inputs: str | Path, batch_size: int = 32) -> list[dict[str, Any]]:
        """What a fine-tuned model says of a file of inputs; see ``bert-jax predict``.

        Args:
            inputs: A file, or ``tfds:NAME:SPLIT``, as for training; labels are not needed.
            batch_size: Rows at a time.

        Returns:
            One dictionary per example, in the order of the file, with the fields that ``bert-jax
            predict`` writes for the task: of a classification ``id``, ``label`` and
            ``probabilities`` (class to float, sum 1).

        Raises:
            BadInputError: The model has no task head, or the input cannot be read.

        Source: the heads of Devlin et al. 2018, section 4.
        """
        # A task may bring large libraries, which other uses need not wait for.
        from pipelines.models.predict import columns_of, predict, task_of
        from pipelines.tasks.registry import open_task
        from pipelines.tasks.task import Columns

        name, head, options = task_of(self.model)
        task = open_task(name, options)
        examples = task.read(str(inputs), columns_of(self.model, Columns()), labelled=False)
        return predict(self.model, task, head, examples, self._layout, batch_size)

    @cached_property
    def _params(self) -> Params:
        return self.model.pretraining_params(self._layout)

    @cached_property
    def _states(self) -> Callable[..., Array]:
        network, pad_id = define(self.model.network), self.tokenizer.pad_id

        def states(params: Params, *arguments: Any) -> Array:
            return hidden_states(nnx.merge(network, params).bert, pad_id, *arguments)

        return jax.jit(states, static_argnums=(3, 4))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise BadArgumentsError("texts must be a list of texts, not one text")
        for text in texts:
            if not isinstance(text, str):
                raise BadArgumentsError(f"texts must be strings, not {text!r:.60}")
            if HALF_CHARACTER.search(text):
                raise BadArgumentsError(
                    f"{text[:60]!r} is not Unicode text (half a surrogate pair)"
                )
        room = self.model.network.max_positions - 2
        tokenizer = self.tokenizer
        return [
            [tokenizer.cls_id, *ids[:room], tokenizer.sep_id] for ids in tokenizer.encode(texts)
        ]


def check_layers(network: ModelConfig, layers: Sequence[int]) -> None:
    """Refuses layers that a network has not.

    Raises:
        BadArgumentsError: There is one.
    """
    for layer in layers:
        if not -network.layers - 1 <= layer <= network.layers:
            raise BadArgumentsError(
                f"layer {layer}: the model has 0 (the embeddings) to {network.layers}"
            )


def hidden_states(
    bert: BertModel,
    pad_id: int,
    token_ids: Array,
    token_type_ids: Array,
    layers: tuple[int, ...],
    pooling: Pooling | None,
) -> Array:
    """float32 [layers, B, D], or [layers, B, T, D] without pooling; see `Bert.states`."""
    there = token_ids != pad_id
    ids = there.astype(jnp.int32)
    last, inputs = bert.hidden_states(token_ids, token_type_ids, ids)
    L = inputs.shape[0]
    states = jnp.stack([last if layer == L else inputs[layer] for layer in layers])
    states = states.astype(jnp.float32)
    if pooling == "cls":
        return states[:, :, 0]
    if pooling == "max":
        return jnp.max(jnp.where(there[None, ..., None], states, -jnp.inf), axis=2)
    if pooling == "mean":
        count = jnp.maximum(jnp.sum(ids, axis=1), 1)[None, :, None]  # rows that fill up have none
        return jnp.einsum("KBTD,BT->KBD", states, there.astype(jnp.float32)) / count
    return states
