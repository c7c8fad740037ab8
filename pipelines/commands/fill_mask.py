"""``bert-jax fill-mask``: what a model puts in place of [MASK]."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bert_jax.config.run import ModelConfig
from bert_jax.runtime import distributed
from bert_jax.runtime.errors import BadArgumentsError, printable
from bert_jax.runtime.paths import at
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import Params, define
from bert_jax.training.step import forward
from pipelines.data.batches.padding import padded
from pipelines.data.sources.files import HALF_CHARACTER
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.open import MODEL_HELP, open_model
from pipelines.settings import command_parser, parse

# One program for all texts of like length.
compiled_forward = jax.jit(forward, static_argnums=0)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("fill-mask", "Ranks the tokens that could stand in place of [MASK].")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("text", metavar="TEXT", help='such as "Paris is the [MASK] of France."')
    parser.add_argument("--top-k", type=int, default=5, help="answers for each mask")
    parser.add_argument("--json", action="store_true", help="print one JSON list per mask")
    options = parse(parser, argv)
    distributed.enable_compilation_cache()
    distributed.devices()
    partitioner = Partitioner(jax.local_devices()[:1])
    model = open_model(at(options.model), partitioner)
    model.require_masked_language_head()
    params = model.pretraining_params(partitioner)
    found = fill_mask(params, model.network, model.tokenizer(), options.text, options.top_k)
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return
    for answers in found:
        if answers is not found[0]:
            print()  # noqa: T201
        for answer in answers:
            line = f"{answer['probability']:7.2%}  {answer['token']:16} {answer['text']}"
            print(printable(line))  # noqa: T201


def fill_mask(
    params: Params, network: ModelConfig, tokenizer: Tokenizer, text: str, top_k: int
) -> list[list[dict[str, Any]]]:
    """The `top_k` most probable tokens for every mask of a text, best first.

    Each mask is filled on its own; the others stay in the text.

    Returns:
        Per mask a list of {token, id, probability, text}, where text has this mask filled in.

    Raises:
        BadArgumentsError: There is no mask, the text is too long for the model or not UTF-8.
    """
    if top_k < 1:
        raise BadArgumentsError(f"top-k must be at least 1, not {top_k}")
    masked = read_masked(tokenizer, text, network.max_positions)
    token_ids = padded([masked.ids], 1, tokenizer.pad_id, network.max_positions)
    there = np.arange(token_ids.shape[1])[None] < len(masked.ids)
    batch = {
        "token_ids": token_ids,
        "token_type_ids": np.zeros_like(token_ids),
        "segment_ids": there.astype(np.int32),
        "mlm_positions": np.array([masked.positions], np.int32),
    }
    found = compiled_forward(define(network), params, jax.device_put(batch), None).mlm[0]
    probabilities = np.asarray(jax.nn.softmax(found))[:, : tokenizer.vocab_size]
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    return answers(tokenizer, masked, best, np.take_along_axis(probabilities, best, axis=-1))


@dataclass(frozen=True)
class Masked:
    """A text with masks as tokens.

    Attributes:
        ids: With [CLS] and [SEP].
        positions: Of the masks, at least one.
    """

    ids: list[int]
    positions: list[int]


def read_masked(tokenizer: Tokenizer, text: str, longest: int) -> Masked:
    """The tokens of a text, of which the model takes `longest`.

    Raises:
        BadArgumentsError: There is no mask, the text is too long for the model or not UTF-8.
    """
    if HALF_CHARACTER.search(text):  # also how Python shows a byte that is not UTF-8
        raise BadArgumentsError("the text is not UTF-8")
    ids = [tokenizer.cls_id, *tokenizer.encode_masked(text), tokenizer.sep_id]
    positions = [place for place, token in enumerate(ids) if token == tokenizer.mask_id]
    if not positions:
        raise BadArgumentsError(f"there is no [MASK] in {text!r}")
    if len(ids) > longest:
        raise BadArgumentsError(f"the text has {len(ids)} tokens, the model takes {longest}")
    return Masked(ids, positions)


def answers(
    tokenizer: Tokenizer, masked: Masked, best: np.ndarray, probabilities: np.ndarray
) -> list[list[dict[str, Any]]]:
    """What `fill_mask` returns.

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
                "probability": share,
                "text": _filled(tokenizer, masked.ids, place, token),
            }
            for token, share in zip(tokens, shares, strict=True)
        ]
        for place, tokens, shares in zip(
            masked.positions, best.tolist(), probabilities.tolist(), strict=True
        )
    ]


def _filled(tokenizer: Tokenizer, ids: list[int], place: int, token: int) -> str:
    filled = [*ids[1:place], token, *ids[place + 1 : -1]]
    masks = [number for number, one in enumerate(filled) if one == tokenizer.mask_id]
    bounds = zip([-1, *masks], [*masks, len(filled)], strict=True)
    return " [MASK] ".join(tokenizer.decode(filled[a + 1 : b]) for a, b in bounds).strip()
