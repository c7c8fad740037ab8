"""The PyTorch side of finetune.py: the same recipe with the networks of transformers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
import transformers
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from bert_jax.training.optimizers import learning_rate
from pipelines.tasks.batches import TaskBatches
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.task import Arrays, Features

# Task -> class, and the name of its last affine map.
CLASSES: dict[str, tuple[Any, str]] = {
    "classification": (transformers.BertForSequenceClassification, "classifier"),
    "multi-label": (transformers.BertForSequenceClassification, "classifier"),
    "multiple-choice": (transformers.BertForMultipleChoice, "classifier"),
    "tagging": (transformers.BertForTokenClassification, "classifier"),
    "qa": (transformers.BertForQuestionAnswering, "qa_outputs"),
}


class SentenceScores(torch.nn.Module):
    """Scores every [CLS] token; transformers has no network for this."""

    def __init__(self, path: Any, dropout: float) -> None:
        """Load the encoder."""
        super().__init__()
        self.bert = transformers.BertModel.from_pretrained(
            path, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
        self.dropout = torch.nn.Dropout(dropout)
        self.classifier = torch.nn.Linear(self.bert.config.hidden_size, 1)

    def forward(self, cls_positions: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """Return scores [B, K, 1]."""
        hidden = self.bert(**inputs).last_hidden_state
        index = cls_positions[..., None].expand(-1, -1, hidden.shape[-1])
        pooled = torch.tanh(self.bert.pooler.dense(hidden.gather(1, index)))
        return self.classifier(self.dropout(pooled))


def open_network(task: str, path: Any, head: dict[str, Any], dropout: float) -> torch.nn.Module:
    """Return the network with the weights of `path`, and the affine map `head` on top."""
    outputs = head["bias"].shape[0]
    if task == "summarization":
        network, name = SentenceScores(path, dropout), "classifier"
    else:
        kind, name = CLASSES[task]
        count = {} if task in ("multiple-choice", "qa") else {"num_labels": outputs}
        network = kind.from_pretrained(
            path, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **count
        )
    last = getattr(network, name)
    with torch.no_grad():
        last.weight.copy_(torch.tensor(np.array(head["kernel"])).T)
        last.bias.copy_(torch.tensor(np.array(head["bias"])))
    return network


def train(network: torch.nn.Module, config: FinetuneConfig, features: Features) -> None:
    """Train it on the batches of bert-jax with its learning rates."""
    torch.manual_seed(config.seed)
    optimizer = torch.optim.AdamW(groups(network), lr=1.0, betas=(0.9, 0.999), eps=1e-6)
    rates = jax.vmap(learning_rate(config.optimizer, config.steps))(np.arange(float(config.steps)))
    data = TaskBatches(features, config.train.batch_size, config.seed, {})
    network.train()
    for step in range(config.steps):
        arrays = data.batch_at(step).arrays
        for group in optimizer.param_groups:
            group["lr"] = float(rates[step])
        loss = objective(config.task, logits(config.task, network, arrays), arrays)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
        optimizer.step()
    network.eval()


def groups(network: torch.nn.Module) -> list[dict[str, Any]]:
    """Return parameters with and without weight decay."""
    named = list(network.named_parameters())
    plain = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
    plain_ids = set(map(id, plain))
    decayed = [p for _, p in named if id(p) not in plain_ids]
    return [
        {"params": decayed, "weight_decay": 0.01},
        {"params": plain, "weight_decay": 0.0},
    ]


def logits(task: str, network: torch.nn.Module, arrays: Arrays) -> torch.Tensor:
    """Return logits in the shape of the networks of bert-jax."""
    inputs = {
        "input_ids": torch.tensor(arrays["token_ids"]).long(),
        "token_type_ids": torch.tensor(arrays["token_type_ids"]).long(),
        "attention_mask": torch.tensor(arrays["segment_ids"]).long(),
    }
    if task == "summarization":
        return network(torch.tensor(arrays["cls_positions"]).long(), **inputs)
    output = network(**inputs)
    if task == "qa":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    if task == "multiple-choice":
        return output.logits[..., None]
    return output.logits if task == "tagging" else output.logits[:, None]


def objective(task: str, scores: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """Return the weighted mean loss."""
    weights = torch.tensor(arrays["weights"])
    targets = {n: torch.tensor(arrays[n]).long() for n in ("labels", "start", "end") if n in arrays}
    if task == "qa":
        sides = [
            cross_entropy(scores[..., number], targets[name], reduction="none")
            for number, name in enumerate(("start", "end"))
        ]
        losses = (sides[0] + sides[1]) / 2
    elif task == "multi-label":
        losses = binary_cross_entropy_with_logits(
            scores[:, 0], targets["labels"].float(), reduction="none"
        ).mean(dim=-1)
    elif task == "summarization":
        losses = binary_cross_entropy_with_logits(
            scores[..., 0], targets["labels"].float(), reduction="none"
        )
    else:
        index = {"multiple-choice": (..., 0), "tagging": ...}.get(task, (slice(None), 0))
        losses = cross_entropy(
            scores[index].flatten(0, -2), targets["labels"].flatten(), reduction="none"
        ).reshape(weights.shape)
    return (losses * weights).sum() / weights.sum()


def predict(task: str, network: torch.nn.Module, test: Features, batch_size: int) -> np.ndarray:
    """Return the logits of every row."""
    batches = []
    with torch.no_grad():
        for first in range(0, len(test.examples), batch_size):
            part = {n: array[first : first + batch_size] for n, array in test.arrays.items()}
            batches.append(logits(task, network, part).numpy())
    return np.concatenate(batches)
