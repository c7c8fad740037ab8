"""BERT with a task head: fine-tuned whole, in part, or as a source of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from bert_jax.config.head import FEATURES, HeadConfig
from bert_jax.config.run import ModelConfig
from bert_jax.nn.dropout import dropout
from bert_jax.nn.encoder import BertModel, Params
from bert_jax.nn.layers import initializer, split
from bert_jax.nn.lstm import LstmLayer, begins
from bert_jax.runtime.errors import BadInputError


class TaskHead(nnx.Module):
    """An affine map to C outputs, with dropout; before it, if asked for, a BiLSTM."""

    def __init__(self, config: ModelConfig, head: HeadConfig, outputs: int, rngs: nnx.Rngs) -> None:
        """Creates the head for features of the width that `head` asks for."""
        which, how = FEATURES[head.features]
        count = config.layers + 1 if which is None else len(which)
        wide = replace(config, hidden_size=config.hidden_size * (count if how == "concat" else 1))
        if how == "weighted":
            self.mixture = nnx.Param(jnp.zeros(count))
        self.lstm_layers = head.lstm_layers if head.kind == "bilstm" else 0
        for number in range(self.lstm_layers):
            setattr(self, f"lstm_{number}", LstmLayer(wide, rngs))
        self.kernel = nnx.Param(initializer(config)(rngs.params(), (wide.hidden_size, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.rate, self.which, self.how = head.dropout, which, how

    def mixed(self, states: list[Array]) -> Array:
        """The features, [B, T, D], of all hidden states, embeddings first."""
        chosen = states if self.which is None else [states[number] for number in self.which]
        if self.how == "concat":
            return jnp.concatenate(chosen, axis=-1)
        if self.how == "sum":
            return sum(chosen[1:], chosen[0])
        weights = jax.nn.softmax(self.mixture[...])
        return jnp.einsum("LBTD,L->BTD", jnp.stack(chosen), weights.astype(chosen[0].dtype))

    def __call__(self, x: Array, segment_ids: Array, key: Array | None) -> Array:
        """float32 [B, T, C] from [B, T, D]; segment_ids int [B, T] are for the LSTM."""
        for number in range(self.lstm_layers):
            x = getattr(self, f"lstm_{number}")(x, begins(segment_ids), None)
        x = dropout(x, self.rate, key)
        # In float32: in bfloat16 answers that differ by less than 1 % would be the same.
        scores = jnp.einsum("BTD,DC->BTC", x.astype(jnp.float32), self.kernel[...])
        return scores + self.bias[...][None, None]


class BertForTask(nnx.Module):
    """An encoder with a task head."""

    def __init__(self, network: TaskNetwork, rngs: nnx.Rngs) -> None:
        """Creates both."""
        self.bert = BertModel(network.config, rngs)
        self.head = TaskHead(network.config, network.head, network.outputs, rngs)
        self.network = network

    def __call__(self, batch: Mapping[str, Array], key: Array | None) -> Array:
        """float32 logits: [B, T, C] of tokens, or [B, K, C] of sequences.

        Multiple choice, whose ids are int [B, C, T], gives [B, C, 1].
        """
        ids = [batch[name] for name in ("token_ids", "token_type_ids", "segment_ids")]
        choices = ids[0].shape[:-1]
        tokens, segments, sequences = (array.reshape(-1, array.shape[-1]) for array in ids)
        encoder_key, head_key = split(key, 2)
        frozen = self.network.head.trainable == "head"
        # Features of a frozen encoder are fixed: no dropout in it.
        last, inputs = self.bert.hidden_states(
            tokens, segments, sequences, None if frozen else encoder_key
        )
        states = [*inputs, last]
        x = self.head.mixed(jax.lax.stop_gradient(states) if frozen else states)
        if not self.network.tokens:
            x = self._pooled(x, batch.get("cls_positions"))
        logits = self.head(x, sequences, head_key)
        return logits.reshape(*choices, -1) if len(choices) > 1 else logits

    def _pooled(self, x: Array, cls_positions: Array | None) -> Array:
        # The pooler was trained on the last layer; other features go to the head as they are.
        if self.network.head.features == "last":
            return self.bert.pool(x, cls_positions)
        at = jnp.zeros((x.shape[0], 1), jnp.int32) if cls_positions is None else cls_positions
        return jnp.take_along_axis(x, at[..., None], axis=1)


@dataclass(frozen=True)
class TaskNetwork:
    """What `BertForTask` is made of.

    Attributes:
        config: Of the encoder.
        head: On it.
        outputs: C.
        tokens: Whether every token has outputs, or every sequence.
    """

    config: ModelConfig
    head: HeadConfig
    outputs: int
    tokens: bool

    def __post_init__(self) -> None:
        """Checks that the head fits.

        Raises:
            BadInputError: It asks for more layers than there are, or for an LSTM over one token.
        """
        if self.head.kind == "bilstm" and not self.tokens:
            raise BadInputError("head.kind bilstm is for tasks on tokens (tagging, qa); use linear")
        number = self.head.trainable.removeprefix("last-")
        if number.isdecimal() and int(number) > self.config.layers:
            raise BadInputError(
                f"head.trainable {self.head.trainable}: the model has {self.config.layers} layers;"
                " all trains the embeddings too"
            )
        which, _ = FEATURES[self.head.features]
        if which is not None and -min(which) > self.config.layers + 1:
            raise BadInputError(
                f"head.features {self.head.features} needs more than {self.config.layers} layers"
            )

    def define(self) -> nnx.GraphDef[BertForTask]:
        """The network without its arrays."""
        return nnx.graphdef(nnx.eval_shape(lambda: BertForTask(self, nnx.Rngs(0))))

    def init_params(self, seed: int) -> Params:
        """Fresh parameters, ``{"bert": …, "head": …}``."""
        return nnx.to_pure_dict(nnx.state(BertForTask(self, nnx.Rngs(seed))))

    def completed(self, params: Params) -> Params:
        """`params` with zeros for a pooler that no output depends on, where it is not there.

        Raises:
            BadInputError: The pooler is not there, and outputs depend on it.
        """
        if "pooler" in params["bert"]:
            return params
        if not self.tokens:
            raise BadInputError("the model has no pooler, which this task needs; fine-tune it")
        D = self.config.hidden_size
        pooler = {"kernel": jnp.zeros((D, D)), "bias": jnp.zeros(D)}
        return params | {"bert": params["bert"] | {"pooler": pooler}}

    def lr_scales(self, params: Params) -> Params:
        """The factor of each parameter's learning rate, broadcast against it; 0 is frozen.

        A layer has ``layer_decay`` times the factor of the one above, the embeddings that of the
        first; head and pooler have 1. What no output depends on is frozen: weight decay alone would
        wear it away.

        Args:
            params: The parameters or their shapes.
        """
        L, decay = self.config.layers, self.head.layer_decay
        frozen = self.head.frozen_layers(L)
        which, _ = FEATURES[self.head.features]
        used = L if which is None else max(number % (L + 1) for number in which)
        of_layers = np.array([decay ** (L - n) if frozen <= n < used else 0.0 for n in range(L)])
        of_embeddings = decay ** (L + 1) if self.head.trainable == "all" else 0.0
        of_pooler = 0.0 if self.tokens or self.head.features != "last" else 1.0

        def rate(path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> np.ndarray:
            names = [str(entry.key) for entry in path]
            if names[:2] == ["bert", "layers"]:
                return of_layers.reshape(-1, *[1] * (leaf.ndim - 1)).astype(np.float32)
            others = {"embeddings": of_embeddings, "pooler": of_pooler}
            value = others[names[1]] if names[0] == "bert" else 1.0
            return np.full([1] * leaf.ndim, value, np.float32)

        return jax.tree_util.tree_map_with_path(rate, params)
