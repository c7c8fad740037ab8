"""Compiled functions of the server, for a few fixed shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from bert_jax.nn.encoder import BertModel, Params, define
from bert_jax.nn.rngs import init_rngs
from bert_jax.nn.task_heads import TaskNetwork
from bert_jax.nn.tensor_names import MLM, NSP, parts
from bert_jax.runtime.errors import UserError
from bert_jax.training.step import DeviceBatch, forward
from pipelines.data.batches.padding import padded, padded_length
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.open import LoadedModel
from pipelines.models.states import hidden_states
from pipelines.serving.batching import Row

MAX_ANSWERS = 100  # per mask


class NotFiniteAnswerError(UserError):
    """The model is damaged: its output is infinite or NaN."""


class CompiledFunctions:
    """The jitted functions of a model, by name; each computes a batch of rows.

    For each row, ``fill-mask`` returns (probabilities, ids), [P, answers] each; ``next-sentence``
    two probabilities; ``vector`` [D], the mean over the tokens; ``attention`` [L, N, T, S];
    ``task`` the logits, [T, C] or [K, C]. T, P and K may be larger than those of the row.
    """

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: Tokenizer,
        task: TaskNetwork | None,
    ) -> None:
        """Create the functions of a model that `open_model` opened.

        Args:
            model: The model.
            tokenizer: Its tokenizer.
            task: The network with its task head; None without a head.

        Raises:
            BadInputError: The task needs a part that the model lacks.
        """
        network, weights = model.network, model.weights.params
        self._longest, self._pad_id = network.max_positions, tokenizer.pad_id
        encoder = nnx.graphdef(nnx.eval_shape(lambda: BertModel(network, init_rngs(0))))
        # These do not depend on the pooler, which may be missing.
        D = network.hidden_size
        pooler = {"kernel": jnp.zeros((D, D)), "bias": jnp.zeros(D)}
        bert = {"pooler": pooler} | weights["bert"]
        self._functions: dict[str, Callable[..., Any]] = {
            "vector": _jitted(bert, _vector, encoder, tokenizer.pad_id, (network.layers,)),
            "attention": _jitted(bert, _attention, encoder),
        }
        if parts(weights) & {MLM, NSP}:
            whole, params = define(network), model.pretraining_params()
            kept = min(MAX_ANSWERS, tokenizer.vocab_size)
            self._functions |= {
                "fill-mask": _jitted(params, _fill_mask, whole, tokenizer.vocab_size, kept),
                "next-sentence": _jitted(params, _next_sentence, whole),
            }
        if task is not None:
            self._functions["task"] = _jitted(task.completed(weights), _task, task.define())

    def kind(self, row: Row) -> Hashable:
        """Return the shape of the batch for a row; rows of the same kind can share a batch."""
        lengths = {name: padded_length(len(array), self._longest) for name, array in row.items()}
        return tuple(sorted(lengths.items()))

    def run(self, name: str, rows: Sequence[Row]) -> list[Any]:
        """Return the output for each row, as NumPy arrays; rows must be of one kind.

        Raises:
            NotFiniteAnswerError: An output is infinite or NaN.
        """
        B = 1 << (len(rows) - 1).bit_length()
        fills = {"token_ids": self._pad_id}
        batch = {
            key: padded([row[key] for row in rows], B, fills.get(key, 0), self._longest)  # type: ignore[misc]
            for key in rows[0]
        }
        outputs = jax.device_get(self._functions[name](jax.device_put(batch)))
        outputs = jax.tree.map(lambda array: array[: len(rows)], outputs)
        if not all(np.isfinite(array).all() for array in jax.tree.leaves(outputs)):
            raise NotFiniteAnswerError(
                "the model is damaged: its output is infinite or NaN; serve another checkpoint"
            )
        return [
            jax.tree.map(lambda array, n=number: array[n], outputs) for number in range(len(rows))
        ]


def _jitted(params: Params, run: Callable[..., Any], *fixed: Any) -> Callable[..., Any]:
    return partial(jax.jit(partial(run, *fixed)), params)


def _fill_mask(
    definition: nnx.GraphDef, vocabulary: int, kept: int, params: Params, batch: DeviceBatch
) -> tuple[Array, Array]:
    logits = forward(definition, params, batch, None).mlm
    # The first of equal values, as in a stable sort.
    probabilities, ids = jax.lax.top_k(jax.nn.softmax(logits)[..., :vocabulary], kept)
    return probabilities, ids


def _next_sentence(definition: nnx.GraphDef, params: Params, batch: DeviceBatch) -> Array:
    # XLA removes the MLM head, whose output is not used.
    positions = jnp.zeros((batch["token_ids"].shape[0], 1), jnp.int32)
    outputs = forward(definition, params, batch | {"mlm_positions": positions}, None)
    return jax.nn.softmax(outputs.nsp[:, 0])


def _vector(
    definition: nnx.GraphDef,
    pad_id: int,
    layers: tuple[int, ...],
    params: Params,
    batch: DeviceBatch,
) -> Array:
    is_token = batch["token_ids"] != pad_id
    batch = batch | {"segment_ids": is_token.astype(jnp.int32)}
    return hidden_states(nnx.merge(definition, params), batch, layers, "mean")[0, :, 0]


def _attention(definition: nnx.GraphDef, params: Params, batch: DeviceBatch) -> Array:
    ids = (batch[name] for name in ("token_ids", "token_type_ids", "segment_ids"))
    probabilities = nnx.merge(definition, params).attention_probabilities(*ids)
    return jnp.swapaxes(probabilities, 0, 1)


def _task(definition: nnx.GraphDef, params: Params, batch: DeviceBatch) -> Array:
    return nnx.merge(definition, params)(batch, None)
