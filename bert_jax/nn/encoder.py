"""The BERT encoder and the pre-training model on top of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from bert_jax.config.run import ModelConfig
from bert_jax.nn.attention_mask import AttentionMask
from bert_jax.nn.hardware import device_kind
from bert_jax.nn.heads import MaskedLanguageHead, NextSentenceHead
from bert_jax.nn.layers import Einsum, Embeddings, EncoderLayer, split
from bert_jax.nn.lstm import LstmLayer, begins

Params = dict[str, Any]  # nested, of float32 arrays
M = TypeVar("M", bound=nnx.Module)

# How the backward pass of a layer is changed.
REMAT: dict[str, Callable[[Any], Any]] = {
    "none": lambda layer: layer,
    "elementwise": partial(
        jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
    "layers": jax.checkpoint,
}


def stacked(make: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
    """`count` modules as one whose arrays have a leading axis L, for `jax.lax.scan`."""
    arrays = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(
        jax.random.split(rngs.params(), count)
    )
    one = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    return nnx.merge(nnx.graphdef(one), arrays)


class BertModel(nnx.Module):
    """Embeddings and a stack of encoder layers; a pooled vector from the first token.

    ``encoder: lstm`` and ``left-to-right`` are what the paper compares itself with; they share
    everything but the layers or the direction of attention.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Creates the network; `config` must state every size (`ModelConfig.resolved`)."""
        D = config.hidden_size
        self.embeddings = Embeddings(config, rngs)
        layer = LstmLayer if config.encoder == "lstm" else EncoderLayer
        self.layers = stacked(lambda r: layer(config, r), config.layers, rngs)
        self.pooler = Einsum(config, "BKD,DE->BKE", (D, D), (D,), rngs)
        self.depth = config.layers
        self.encoder, self.remat = config.encoder, config.remat

    def __call__(
        self,
        token_ids: Array,
        token_type_ids: Array,
        segment_ids: Array,
        key: Array | None = None,
        position_ids: Array | None = None,
    ) -> Array:
        """The last layer's hidden states, [B, T, D].

        Args:
            token_ids: int [B, T].
            token_type_ids: int [B, T].
            segment_ids: int [B, T]: tokens see those of their own sequence; 0 is padding.
            key: For dropout; None for none.
            position_ids: int [B, T], for rows of several sequences; None counts from 0 in each row.
        """
        return self.hidden_states(token_ids, token_type_ids, segment_ids, key, position_ids)[0]

    def hidden_states(
        self,
        token_ids: Array,
        token_type_ids: Array,
        segment_ids: Array,
        key: Array | None = None,
        position_ids: Array | None = None,
    ) -> tuple[Array, Array]:
        """The last layer's hidden states [B, T, D] and the inputs of all layers [L, B, T, D].

        The first of the inputs are the embeddings. Arguments are as in `__call__`; what a program
        does not use of the result is not kept.
        """
        embedding_key, layers_key = split(key, 2)
        x = self.embeddings(token_ids, token_type_ids, embedding_key, position_ids)
        packed = position_ids is not None
        context: Any = (
            begins(segment_ids) if self.encoder == "lstm" else self._visible(segment_ids, packed)
        )
        layer, arrays = nnx.split(self.layers)
        keys = None if layers_key is None else jax.random.split(layers_key, self.depth)

        def apply(x: Array, this: tuple[nnx.State, Array | None]) -> tuple[Array, Array]:
            arrays, key = this
            return nnx.merge(layer, arrays)(x, context, key), x

        # Written out: a loop would copy what the backward pass needs into stacks and out again. But
        # on processors XLA keeps what was to be computed again, unless it is in a loop.
        unroll = self.remat == "none" or device_kind() != "cpu"
        return jax.lax.scan(REMAT[self.remat](apply), x, (arrays, keys), unroll=unroll)

    def attention_probabilities(
        self, token_ids: Array, token_type_ids: Array, segment_ids: Array
    ) -> Array:
        """float32 [L, B, N, T, S]: what every head of every layer attends to, without dropout.

        They are computed again from the layers' inputs: the forward pass need not keep them.
        Arguments are as in `__call__`; an encoder of LSTM layers has none.
        """
        _, inputs = self.hidden_states(token_ids, token_type_ids, segment_ids)
        layer, arrays = nnx.split(self.layers)
        visible = self._visible(segment_ids, packed=False)

        def look(_: None, this: tuple[nnx.State, Array]) -> tuple[None, Array]:
            arrays, x = this
            block: Any = nnx.merge(layer, arrays)
            return None, block.attention.probabilities(x, visible)

        return jax.lax.scan(look, None, (arrays, inputs))[1]

    def _visible(self, segment_ids: Array, packed: bool) -> AttentionMask:
        return AttentionMask(segment_ids, packed, self.encoder == "left-to-right")

    def pool(self, hidden: Array, cls_positions: Array | None = None) -> Array:
        """The vector of each whole sequence, [B, K, D]: a map of its [CLS].

        Args:
            hidden: [B, T, D].
            cls_positions: int [B, K]; None is one at 0.
        """
        if cls_positions is None:
            first = hidden[:, :1]
        else:
            first = jnp.take_along_axis(hidden, cls_positions[..., None], axis=1)
        return jnp.tanh(self.pooler(first))


class PretrainingLogits(NamedTuple):
    """float32: mlm [B, P, V] at the predicted positions, nsp [B, K, 2] (1 = not the next)."""

    mlm: Array
    nsp: Array


class BertForPreTraining(nnx.Module):
    """BERT with the masked language and the next sentence head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Creates encoder and heads."""
        self.bert = BertModel(config, rngs)
        self.mlm = MaskedLanguageHead(config, rngs)
        self.nsp = NextSentenceHead(config, rngs)

    def __call__(
        self,
        token_ids: Array,
        token_type_ids: Array,
        segment_ids: Array,
        mlm_positions: Array,
        key: Array | None = None,
        position_ids: Array | None = None,
        cls_positions: Array | None = None,
    ) -> PretrainingLogits:
        """Logits of both objectives.

        Args:
            token_ids: int [B, T].
            token_type_ids: int [B, T].
            segment_ids: int [B, T]: tokens see those of their own sequence; 0 is padding.
            mlm_positions: int [B, P]: where tokens are predicted.
            key: For dropout; None for none.
            position_ids: int [B, T], for rows of several sequences; None counts from 0 in each row.
            cls_positions: int [B, K]: where sequences begin; None is one at 0.
        """
        hidden = self.bert(token_ids, token_type_ids, segment_ids, key, position_ids)
        predicted = jnp.take_along_axis(hidden, mlm_positions[..., None], axis=1)
        return PretrainingLogits(
            mlm=self.mlm(predicted, self.bert.embeddings.token[...]),
            nsp=self.nsp(self.bert.pool(hidden, cls_positions)),
        )


@cache
def define(config: ModelConfig) -> nnx.GraphDef[BertForPreTraining]:
    """The network without its arrays; `nnx.merge` with parameters makes it callable."""
    return nnx.graphdef(nnx.eval_shape(lambda: BertForPreTraining(config, nnx.Rngs(0))))


def init_params(config: ModelConfig, seed: int) -> Params:
    """Fresh parameters."""
    return nnx.to_pure_dict(nnx.state(BertForPreTraining(config, nnx.Rngs(seed))))
