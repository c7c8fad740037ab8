"""BERT with a task head: fine-tuned in whole or in part, or as a source of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.config.task_head import FEATURES, HeadConfig
from bert_jax.nn.dropout import dropout
from bert_jax.nn.encoder import BertModel, Params
from bert_jax.nn.layers import initializer, split
from bert_jax.nn.lstm import LstmLayer, sequence_starts
from bert_jax.nn.packed_rows import STARTS, first_tokens, is_packed, of_sequences
from bert_jax.nn.rngs import init_rngs
from bert_jax.runtime.errors import BadInputError


class TaskHead(nnx.Module):
    """A linear map to C outputs, with dropout; optionally, BiLSTM layers before it."""

    def __init__(self, config: ModelConfig, head: HeadConfig, outputs: int, rngs: nnx.Rngs) -> None:
        """Create the head for the features that `head` selects."""
        indices, combination = FEATURES[head.features]
        count = config.layers + 1 if indices is None else len(indices)
        factor = count if combination == "concat" else 1
        wide = replace(config, hidden_size=config.hidden_size * factor)
        if combination == "weighted":
            self.mixture = nnx.Param(jnp.zeros(count))
        self.lstm_layers = head.lstm_layers if head.kind == "bilstm" else 0
        for number in range(self.lstm_layers):
            setattr(self, f"lstm_{number}", LstmLayer(wide, rngs))
        self.kernel = nnx.Param(initializer(config)(rngs.params(), (wide.hidden_size, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.rate, self.indices, self.combination = head.dropout, indices, combination

    def combine(self, states: list[Array]) -> Array:
        """Combine hidden states [B, T, D], embeddings first, into features [B, T, D]."""
        selected = states if self.indices is None else [states[index] for index in self.indices]
        if self.combination == "concat":
            return jnp.concatenate(selected, axis=-1)
        if self.combination == "sum":
            return sum(selected[1:], selected[0])
        weights = jax.nn.softmax(self.mixture[...])  # [L]
        return jnp.einsum("LBTD,L->BTD", jnp.stack(selected), weights.astype(selected[0].dtype))

    def __call__(self, x: Array, segment_ids: Array, key: Array | None) -> Array:
        """Map [B, T, D] to float32 [B, T, C]; segment_ids int [B, T] are for the LSTM."""
        for number in range(self.lstm_layers):
            x = getattr(self, f"lstm_{number}")(x, sequence_starts(segment_ids), None)
        x = dropout(x, self.rate, key)
        # In float32: bfloat16 would make scores equal that differ by less than 1%.
        scores = jnp.einsum("BTD,DC->BTC", x.astype(jnp.float32), self.kernel[...])
        return scores + self.bias[...][None, None]


class BertForTask(nnx.Module):
    """An encoder with a task head."""

    def __init__(self, network: TaskNetwork, rngs: nnx.Rngs) -> None:
        """Create both."""
        self.bert = BertModel(network.config, rngs)
        self.head = TaskHead(network.config, network.head, network.outputs, rngs)
        self.network = network

    def __call__(self, batch: Mapping[str, Array], key: Array | None) -> Array:
        """Return float32 logits: [B, T, C] of tokens, or [B, K, C] of sequences.

        Multiple choice, with ids of shape [B, C, T], gives [B, C, 1]. B counts the rows of the
        task, also where `packed_rows` put several of them into one.
        """
        ids = [batch[name] for name in ("token_ids", "token_type_ids", "segment_ids")]
        packed = is_packed(batch)
        choices = batch[STARTS].shape if packed else ids[0].shape[:-1]
        # [B, T]
        token_ids, token_type_ids, segment_ids = (x.reshape(-1, x.shape[-1]) for x in ids)
        encoder_key, head_key = split(key, 2)
        frozen = self.network.head.trainable == "head"
        # A frozen encoder has no dropout, so that its features are fixed.
        last, inputs = self.bert.hidden_states(
            *(token_ids, token_type_ids, segment_ids),
            *(None if frozen else encoder_key, batch.get("position_ids")),
        )
        states = [*inputs, last]  # (L + 1) x [B, T, D]
        x = self.head.combine(jax.lax.stop_gradient(states) if frozen else states)
        if self.network.tokens:
            logits = self.head(x, segment_ids, head_key)
            return of_sequences(logits, batch) if packed else logits
        if packed:
            x = x.reshape(1, -1, x.shape[-1])  # [1, B x T, D]
            pooled = self._pooled(x, first_tokens(batch)[None])  # [1, S x K, D]
            x = pooled.reshape(batch[STARTS].size, -1, pooled.shape[-1])
        else:
            x = self._pooled(x, batch.get("cls_positions"))  # [B, K, D]
        logits = self.head(x, segment_ids, head_key)
        return logits.reshape(*choices, -1) if len(choices) > 1 else logits

    def _pooled(self, x: Array, cls_positions: Array | None) -> Array:
        # The pooler was trained on the last layer; the head receives other features unchanged.
        if self.network.head.features == "last":
            return self.bert.pool(x, cls_positions)
        if cls_positions is None:
            cls_positions = jnp.zeros((x.shape[0], 1), jnp.int32)
        return jnp.take_along_axis(x, cls_positions[..., None], axis=1)


@dataclass(frozen=True)
class TaskNetwork:
    """The sizes and options of a `BertForTask`.

    Attributes:
        config: The encoder.
        head: The head.
        outputs: C, the number of outputs.
        tokens: Every token has outputs; otherwise every sequence.
    """

    config: ModelConfig
    head: HeadConfig
    outputs: int
    tokens: bool

    def __post_init__(self) -> None:
        """Check that the head fits the encoder and the task."""
        if self.head.kind == "bilstm" and not self.tokens:
            raise BadInputError("head.kind bilstm is for tasks on tokens (tagging, qa); use linear")
        number = self.head.trainable.removeprefix("last-")
        if number.isdecimal() and int(number) > self.config.layers:
            raise BadInputError(
                f"head.trainable {self.head.trainable}: the model has only {self.config.layers}"
                " layers; use a smaller number, or all to train the embeddings too"
            )
        indices, _ = FEATURES[self.head.features]
        if indices is not None and -min(indices) > self.config.layers + 1:
            raise BadInputError(
                f"head.features {self.head.features} needs more than {self.config.layers} layers;"
                " use last, second-to-last or weighted-all"
            )

    def define(self) -> nnx.GraphDef[BertForTask]:
        """Return the network without its arrays."""
        return _abstract(self)[0]

    def param_shapes(self) -> Params:
        """Return the shapes and dtypes of all parameters."""
        return nnx.to_pure_dict(_abstract(self)[1])

    def init_params(self, seed: int) -> Params:
        """Return randomly initialized parameters, ``{"bert": …, "head": …}``."""
        return nnx.to_pure_dict(nnx.state(BertForTask(self, init_rngs(seed))))

    def completed(self, params: Params) -> Params:
        """Return the parameters of this network, without the heads of pre-training.

        A missing pooler that no output depends on has zeros.

        Raises:
            BadInputError: The pooler is missing, and outputs depend on it.
        """
        params = {name: params[name] for name in ("bert", "head")}
        if "pooler" in params["bert"]:
            return params
        if not self.tokens:
            raise BadInputError("the model has no pooler, which this task needs; fine-tune it")
        D = self.config.hidden_size
        pooler = {"kernel": jnp.zeros((D, D)), "bias": jnp.zeros(D)}
        return params | {"bert": params["bert"] | {"pooler": pooler}}

    def lr_scales(self, params: Params) -> Params:
        """Return the factor of each parameter's learning rate, broadcast against it; 0 is frozen.

        Head and pooler have 1, each layer has ``layer_decay`` times the factor of the layer above,
        and the embeddings have ``layer_decay`` times that of the first layer. Parameters that no
        output depends on are frozen: otherwise weight decay would shrink them.

        Args:
            params: The parameters or their shapes.
        """
        L, decay = self.config.layers, self.head.layer_decay
        frozen = self.head.frozen_layers(L)
        indices, _ = FEATURES[self.head.features]
        used = L if indices is None else max(index % (L + 1) for index in indices)
        layers = np.array([decay ** (L - n) if frozen <= n < used else 0.0 for n in range(L)])
        embeddings = decay ** (L + 1) if self.head.trainable == "all" else 0.0
        pooler = 0.0 if self.tokens or self.head.features != "last" else 1.0

        def scale(path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> np.ndarray:
            names = [str(entry.key) for entry in path]
            if names[:2] == ["bert", "layers"]:
                return layers.reshape(-1, *[1] * (leaf.ndim - 1)).astype(np.float32)
            others = {"embeddings": embeddings, "pooler": pooler}
            value = others[names[1]] if names[0] == "bert" else 1.0
            return np.full([1] * leaf.ndim, value, np.float32)

        return jax.tree_util.tree_map_with_path(scale, params)


@cache
def _abstract(network: TaskNetwork) -> tuple[nnx.GraphDef[BertForTask], nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: BertForTask(network, init_rngs(0))))
