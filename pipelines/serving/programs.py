"""What the device computes for the server, for a few fixed shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from bert_jax.nn.encoder import BertModel
from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.nn.tensor_names import MLM, NSP, parts
from bert_jax.runtime.errors import UserError
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import Params, define
from bert_jax.training.step import DeviceBatch, forward
from pipelines.data.batches.padding import padded, padded_length
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.api import hidden_states
from pipelines.models.open import LoadedModel
from pipelines.serving.batching import Row

MOST_ANSWERS = 100  # for a mask


class NotFiniteAnswerError(UserError):
    """The model is broken: it answers with infinite or NaN values."""


class Programs:
    """The jitted functions of a model, by name; each takes a batch of rows.

    ``fill-mask`` gives (probabilities, ids), [P, answers] each; ``next-sentence`` two
    probabilities; ``vector`` [D], the mean over the tokens; ``attention`` [L, N, T, S]; ``task``
    the logits, [T, C] or [K, C]. T, P and K are those of the row or more.
    """

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: Tokenizer,
        partitioner: Partitioner,
        task: TaskNetwork | None,
    ) -> None:
        """Compile for a model that `open_model` opened; `task` is its task head, if it has one.

        Raises:
            BadInputError: The task needs a part that the model lacks.
        """
        network, weights = model.network, model.weights.params
        self._longest, self._pad_id = network.max_positions, tokenizer.pad_id
        encoder = nnx.graphdef(nnx.eval_shape(lambda: BertModel(network, nnx.Rngs(0))))
        # These do not depend on a pooler, which may not be there.
        D = network.hidden_size
        pooler = {"kernel": jnp.zeros((D, D)), "bias": jnp.zeros(D)}
        bert = {"pooler": pooler} | weights["bert"]
        self._programs: dict[str, Callable[..., Any]] = {
            "vector": _jitted(bert, _vector, encoder, tokenizer.pad_id, (network.layers,)),
            "attention": _jitted(bert, _attention, encoder),
        }
        if parts(weights) & {MLM, NSP}:
            whole, params = define(network), model.pretraining_params(partitioner)
            kept = min(MOST_ANSWERS, tokenizer.vocab_size)
            self._programs |= {
                "fill-mask": _jitted(params, _fill_mask, whole, tokenizer.vocab_size, kept),
                "next-sentence": _jitted(params, _next_sentence, whole),
            }
        if task is not None:
            self._programs["task"] = _jitted(task.completed(weights), _task, task.define())

    def kind(self, row: Row) -> Hashable:
        """Rows of the same kind have the same shape."""
        lengths = {name: padded_length(len(array), self._longest) for name, array in row.items()}
        return tuple(sorted(lengths.items()))

    def run(self, name: str, rows: Sequence[Row]) -> list[Any]:
        """What a program says of each row, as NumPy arrays; rows must be of one kind.

        Raises:
            NotFiniteAnswerError: It is infinite or NaN.
        """
        B = 1 << (len(rows) - 1).bit_length()
        fills = {"token_ids": self._pad_id}
        batch = {
            key: padded([row[key] for row in rows], B, fills.get(key, 0), self._longest)  # type: ignore[misc]
            for key in rows[0]
        }
        found = jax.device_get(self._programs[name](jax.device_put(batch)))
        found = jax.tree.map(lambda array: array[: len(rows)], found)
        if not all(np.isfinite(array).all() for array in jax.tree.leaves(found)):
            raise NotFiniteAnswerError(
                "the model answers with infinite or NaN values: it is broken"
            )
        return [
            jax.tree.map(lambda array, n=number: array[n], found) for number in range(len(rows))
        ]


def _jitted(params: Params, run: Callable[..., Any], *fixed: Any) -> Callable[..., Any]:
    return partial(jax.jit(partial(run, *fixed)), params)


def _fill_mask(
    definition: nnx.GraphDef, vocabulary: int, kept: int, params: Params, batch: DeviceBatch
) -> tuple[Array, Array]:
    logits = forward(definition, params, batch, None).mlm
    # Of equal ones the first, as in a stable sort.
    probabilities, ids = jax.lax.top_k(jax.nn.softmax(logits)[..., :vocabulary], kept)
    return probabilities, ids


def _next_sentence(definition: nnx.GraphDef, params: Params, batch: DeviceBatch) -> Array:
    # The other head, of which nothing is used, is not computed.
    nowhere = jnp.zeros((batch["token_ids"].shape[0], 1), jnp.int32)
    found = forward(definition, params, batch | {"mlm_positions": nowhere}, None)
    return jax.nn.softmax(found.nsp[:, 0])


def _vector(
    definition: nnx.GraphDef,
    pad_id: int,
    layers: tuple[int, ...],
    params: Params,
    batch: DeviceBatch,
) -> Array:
    tokens, segments = batch["token_ids"], batch["token_type_ids"]
    bert = nnx.merge(definition, params)
    return hidden_states(bert, pad_id, tokens, segments, layers, "mean")[0]


def _attention(definition: nnx.GraphDef, params: Params, batch: DeviceBatch) -> Array:
    ids = (batch[name] for name in ("token_ids", "token_type_ids", "segment_ids"))
    found = nnx.merge(definition, params).attention_probabilities(*ids)
    return jnp.swapaxes(found, 0, 1)


def _task(definition: nnx.GraphDef, params: Params, batch: DeviceBatch) -> Array:
    return nnx.merge(definition, params)(batch, None)
