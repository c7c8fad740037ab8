"""The BERT encoder and the pre-training model on top of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.nn.attention_mask import AttentionMask
from bert_jax.nn.device_context import device_kind
from bert_jax.nn.heads import MaskedLanguageHead, NextSentenceHead
from bert_jax.nn.layers import Einsum, Embeddings, EncoderLayer, split
from bert_jax.nn.lstm import LstmLayer, sequence_starts
from bert_jax.nn.rngs import init_rngs

Params = dict[str, Any]  # nested, of float32 arrays
M = TypeVar("M", bound=nnx.Module)

# Name -> transformation of a layer that stores less for the backward pass and recomputes the rest.
REMAT: dict[str, Callable[[Any], Any]] = {
    "none": lambda layer: layer,
    "elementwise": partial(
        jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
    "layers": jax.checkpoint,
}


def stack_layers(make: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
    """Create `count` modules as one with a leading axis L on its arrays, for `jax.lax.scan`."""
    keys = jax.random.split(rngs.params(), count)
    definition, arrays = jax.vmap(lambda key: nnx.split(make(init_rngs(key))))(keys)
    return nnx.merge(definition, arrays)


class BertModel(nnx.Module):
    """Embeddings and a stack of encoder layers; a pooled vector from the first token.

    ``encoder: lstm`` and ``left-to-right`` are for comparison, as in the paper: only the layers, or
    the direction of attention, differ.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create the network; `config` must state every size (`ModelConfig.resolved`)."""
        D = config.hidden_size
        self.embeddings = Embeddings(config, rngs)
        layer = LstmLayer if config.encoder == "lstm" else EncoderLayer
        self.layers = stack_layers(lambda r: layer(config, r), config.layers, rngs)
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
        """Return the last layer's hidden states, [B, T, D].

        Args:
            token_ids: int [B, T].
            token_type_ids: int [B, T].
            segment_ids: int [B, T]: tokens attend to their own sequence; 0 is padding.
            key: For dropout; None disables it.
            position_ids: int [B, T], for packed rows; without them each row counts from 0.
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
        """Return the last layer's hidden states [B, T, D] and all layers' inputs [L, B, T, D].

        The first of the inputs are the embeddings. Arguments are as in `__call__`; XLA removes the
        outputs that a program does not use.
        """
        embedding_key, layers_key = split(key, 2)
        x = self.embeddings(token_ids, token_type_ids, embedding_key, position_ids)  # [B, T, D]
        packed = position_ids is not None
        context: Any = (
            sequence_starts(segment_ids)
            if self.encoder == "lstm"
            else self._attention_mask(segment_ids, packed)
        )
        layer, arrays = nnx.split(self.layers)
        keys = None if layers_key is None else jax.random.split(layers_key, self.depth)

        def apply(x: Array, inputs: tuple[nnx.State, Array | None]) -> tuple[Array, Array]:
            arrays, key = inputs
            return nnx.merge(layer, arrays)(x, context, key), x

        # Unrolled: a loop would copy the values for the backward pass into stacks and out again.
        # But on CPUs, XLA recomputes values only within a loop.
        unroll = self.remat == "none" or device_kind() != "cpu"
        return jax.lax.scan(REMAT[self.remat](apply), x, (arrays, keys), unroll=unroll)

    def attention_probabilities(
        self, token_ids: Array, token_type_ids: Array, segment_ids: Array
    ) -> Array:
        """Return the attention probabilities of all layers, float32 [L, B, N, T, S].

        Without dropout, and recomputed from the layers' inputs, so that the forward pass need not
        store them. Arguments are as in `__call__`; an LSTM encoder has no attention.
        """
        _, inputs = self.hidden_states(token_ids, token_type_ids, segment_ids)
        layer, arrays = nnx.split(self.layers)
        attention_mask = self._attention_mask(segment_ids, packed=False)

        def probabilities(_: None, inputs: tuple[nnx.State, Array]) -> tuple[None, Array]:
            arrays, x = inputs
            block: Any = nnx.merge(layer, arrays)
            return None, block.attention.probabilities(x, attention_mask)

        return jax.lax.scan(probabilities, None, (arrays, inputs))[1]

    def _attention_mask(self, segment_ids: Array, packed: bool) -> AttentionMask:
        return AttentionMask(segment_ids, packed, self.encoder == "left-to-right")

    def pool(self, hidden: Array, cls_positions: Array | None = None) -> Array:
        """Return one vector per sequence, [B, K, D], computed from its [CLS].

        Args:
            hidden: [B, T, D].
            cls_positions: int [B, K]; None means one sequence per row, at 0.
        """
        if cls_positions is None:
            cls = hidden[:, :1]  # [B, 1, D]
        else:
            cls = jnp.take_along_axis(hidden, cls_positions[..., None], axis=1)  # [B, K, D]
        return jnp.tanh(self.pooler(cls))


class PretrainingLogits(NamedTuple):
    """Logits of both objectives, float32."""

    mlm: Array  # [B, P, V], at the predicted positions
    nsp: Array  # [B, K, 2]; class 1 = B is from elsewhere


class BertForPreTraining(nnx.Module):
    """BERT with the heads for masked tokens and for the next sentence."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Create encoder and heads."""
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
        """Return the logits of both objectives.

        Args:
            token_ids: int [B, T].
            token_type_ids: int [B, T].
            segment_ids: int [B, T]: tokens attend to their own sequence; 0 is padding.
            mlm_positions: int [B, P]: positions of the predicted tokens.
            key: For dropout; None disables it.
            position_ids: int [B, T], for packed rows; without them each row counts from 0.
            cls_positions: int [B, K]: starts of sequences; None means one per row, at 0.
        """
        hidden = self.bert(token_ids, token_type_ids, segment_ids, key, position_ids)  # [B, T, D]
        predicted = jnp.take_along_axis(hidden, mlm_positions[..., None], axis=1)  # [B, P, D]
        return PretrainingLogits(
            mlm=self.mlm(predicted, self.bert.embeddings.token[...]),
            nsp=self.nsp(self.bert.pool(hidden, cls_positions)),
        )


@cache
def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef[BertForPreTraining], nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: BertForPreTraining(config, init_rngs(0))))


def define(config: ModelConfig) -> nnx.GraphDef[BertForPreTraining]:
    """Return the network without its arrays; `nnx.merge` with parameters makes it callable."""
    return _abstract(config)[0]


def param_shapes(config: ModelConfig) -> Params:
    """Return the shapes and dtypes of all parameters, in a tree that the caller may change."""
    return nnx.to_pure_dict(_abstract(config)[1])


def init_params(config: ModelConfig, seed: int) -> Params:
    """Return randomly initialized parameters."""
    return nnx.to_pure_dict(nnx.state(BertForPreTraining(config, init_rngs(seed))))
