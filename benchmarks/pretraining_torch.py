"""PyTorch's side of step.py and time_to_quality.py: BERT of transformers and its two losses."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from bert_jax.config.presets import PRESETS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(size: str, vocabulary: int, pad_id: int = 0, attention: str = "sdpa") -> Any:
    """A fresh BertForPreTraining of one of our sizes, on the device, in training mode."""
    _, layers, hidden, heads = PRESETS[f"bert-{size}"]
    config = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=4 * hidden, hidden_act="gelu_pytorch_tanh",
        pad_token_id=pad_id,
    )  # fmt: skip
    config._attn_implementation = attention
    return transformers.BertForPreTraining(config).to(DEVICE).train()


def stock_loss(model: Any, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
    """The loss that transformers gives; its "labels" are -100 where nothing is predicted."""
    found = model(
        input_ids=given["token_ids"],
        token_type_ids=given["token_type_ids"],
        attention_mask=given["segment_ids"],
        labels=given["labels"],
        next_sentence_label=given["nsp_labels"],
    )
    return (found.loss,)


def losses(model: Any, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of the predicted tokens, scored at their positions only, and of the pairs."""
    out = model.bert(
        input_ids=given["token_ids"].long(),
        token_type_ids=given["token_type_ids"].long(),
        attention_mask=given["segment_ids"],
    )
    hidden = out.last_hidden_state
    places = given["mlm_positions"].long()[..., None].expand(-1, -1, hidden.shape[-1])
    scores = model.cls.predictions(hidden.gather(1, places)).float()
    cross = torch.nn.functional.cross_entropy
    each = cross(scores.flatten(0, 1), given["mlm_targets"].long().flatten(), reduction="none")
    weights = given["mlm_weights"].flatten()
    pairs = model.cls.seq_relationship(out.pooler_output).float()
    nsp = cross(pairs, given["nsp_labels"].long().flatten())
    return (each * weights).sum() / weights.sum(), nsp
