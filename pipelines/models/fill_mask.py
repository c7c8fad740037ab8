"""Rank the tokens that could replace each [MASK] of a text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.nn.encoder import Params, define
from bert_jax.runtime.errors import BadArgumentsError
from bert_jax.training.step import DeviceBatch, forward
from pipelines.data.batches.padding import padded
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.data.tokenizers.tokenizer import Tokenizer


@partial(jax.jit, static_argnums=0)
def mask_probabilities(model: nnx.GraphDef, params: Params, batch: DeviceBatch) -> Array:
    """Return the probability of every token at the predicted positions, float32 [B, P, V].

    Compiled once for all texts of similar length.
    """
    return jax.nn.softmax(forward(model, params, batch, None).mlm)


def fill_mask(
    params: Params, network: ModelConfig, tokenizer: Tokenizer, text: str, top_k: int
) -> list[list[dict[str, Any]]]:
    """Return the `top_k` most probable tokens for every mask of a text, best first.

    Each mask is filled on its own; the others stay in the text.

    Returns:
        Per mask a list of {token, id, probability, text}, where text has this mask filled in.

    Raises:
        BadArgumentsError: The text has no mask, is too long for the model or is not UTF-8.
    """
    if top_k < 1:
        raise BadArgumentsError(f"top-k must be at least 1, not {top_k}")
    masked = read_masked(tokenizer, text, network.max_positions)
    token_ids = padded([masked.ids], 1, tokenizer.pad_id, network.max_positions)  # [1, T]
    is_token = np.arange(token_ids.shape[1])[None] < len(masked.ids)
    batch = {
        "token_ids": token_ids,
        "token_type_ids": np.zeros_like(token_ids),
        "segment_ids": is_token.astype(np.int32),
        "mlm_positions": np.array([masked.positions], np.int32),
    }
    # [P, V]
    probabilities = np.asarray(mask_probabilities(define(network), params, batch))[0]
    probabilities = probabilities[:, : tokenizer.vocab_size]
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    return answers(tokenizer, masked, best, np.take_along_axis(probabilities, best, axis=-1))


@dataclass(frozen=True)
class Masked:
    """The tokens of a text with masks.

    Attributes:
        ids: With [CLS] and [SEP].
        positions: Of the masks, at least one.
    """

    ids: list[int]
    positions: list[int]


def read_masked(tokenizer: Tokenizer, text: str, longest: int) -> Masked:
    """Tokenize a text for a model that accepts at most `longest` tokens.

    Raises:
        BadArgumentsError: The text has no mask, is too long for the model or is not UTF-8.
    """
    if HALF_CHARACTER.search(text):  # Python's escape of a byte that is not UTF-8
        raise BadArgumentsError("the text is not UTF-8; convert it to UTF-8")
    ids = [tokenizer.cls_id, *tokenizer.encode_masked(text), tokenizer.sep_id]
    positions = [position for position, token in enumerate(ids) if token == tokenizer.mask_id]
    if not positions:
        raise BadArgumentsError(f"the text {text!r} contains no [MASK]; write one where a word is")
    if len(ids) > longest:
        raise BadArgumentsError(
            f"the text has {len(ids)} tokens, but the model accepts {longest}; shorten it"
        )
    return Masked(ids, positions)


def answers(
    tokenizer: Tokenizer, masked: Masked, best: np.ndarray, probabilities: np.ndarray
) -> list[list[dict[str, Any]]]:
    """Return the result of `fill_mask`.

    Args:
        tokenizer: Of the text.
        masked: The text.
        best: int [masks, top_k]: tokens, the best first.
        probabilities: float [masks, top_k]: of these.
    """
    return [
        [
            {
                "token": tokenizer.decode([token]),
                "id": token,
                "probability": probability,
                "text": _filled(tokenizer, masked.ids, position, token),
            }
            for token, probability in zip(tokens, row, strict=True)
        ]
        for position, tokens, row in zip(
            masked.positions, best.tolist(), probabilities.tolist(), strict=True
        )
    ]


def _filled(tokenizer: Tokenizer, ids: list[int], position: int, token: int) -> str:
    filled = [*ids[1:position], token, *ids[position + 1 : -1]]
    masks = [number for number, other in enumerate(filled) if other == tokenizer.mask_id]
    bounds = zip([-1, *masks], [*masks, len(filled)], strict=True)
    return " [MASK] ".join(tokenizer.decode(filled[a + 1 : b]) for a, b in bounds).strip()
