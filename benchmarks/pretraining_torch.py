"""The PyTorch side of step.py and time_to_quality.py: transformers' BERT and its two losses."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from bert_jax.config.presets import PRESETS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(
    size: str,
    vocabulary: int,
    pad_id: int = 0,
    attention: str = "sdpa",
    dropout: float = 0.1,
    initializer_range: float = 0.02,
) -> Any:
    """Return a fresh BertForPreTraining of one of our sizes, on the device, in training mode."""
    _, layers, hidden, heads = PRESETS[f"bert-{size}"]
    config = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=4 * hidden, hidden_act="gelu_pytorch_tanh",
        pad_token_id=pad_id, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        initializer_range=initializer_range,
    )  # fmt: skip
    config._attn_implementation = attention
    return transformers.BertForPreTraining(config).to(DEVICE).train()


def stock_loss(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
    """Return the loss of transformers; its "labels" are -100 where nothing is predicted."""
    output = model(
        input_ids=batch["token_ids"],
        token_type_ids=batch["token_type_ids"],
        attention_mask=batch["segment_ids"],
        labels=batch["labels"],
        next_sentence_label=batch["nsp_labels"],
    )
    return (output.loss,)


def losses(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean losses of predicted tokens, scored at their positions only, and of pairs."""
    output = model.bert(
        input_ids=batch["token_ids"].long(),
        token_type_ids=batch["token_type_ids"].long(),
        attention_mask=batch["segment_ids"],
    )
    hidden = output.last_hidden_state
    positions = batch["mlm_positions"].long()[..., None].expand(-1, -1, hidden.shape[-1])
    scores = model.cls.predictions(hidden.gather(1, positions)).float()
    cross_entropy = torch.nn.functional.cross_entropy
    token_losses = cross_entropy(
        scores.flatten(0, 1), batch["mlm_targets"].long().flatten(), reduction="none"
    )
    weights = batch["mlm_weights"].flatten()
    pairs = model.cls.seq_relationship(output.pooler_output).float()
    nsp = cross_entropy(pairs, batch["nsp_labels"].long().flatten())
    return (token_losses * weights).sum() / weights.sum(), nsp
