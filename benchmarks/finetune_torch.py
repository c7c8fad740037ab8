"""The other side of finetune.py: the same recipe in PyTorch, with the networks of transformers."""

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

# Task -> class, and what its last affine map is called there.
CLASSES: dict[str, tuple[Any, str]] = {
    "classification": (transformers.BertForSequenceClassification, "classifier"),
    "multiple-choice": (transformers.BertForMultipleChoice, "classifier"),
    "tagging": (transformers.BertForTokenClassification, "classifier"),
    "qa": (transformers.BertForQuestionAnswering, "qa_outputs"),
}


class SentenceScores(torch.nn.Module):
    """A score of every [CLS] token; transformers has no network for it."""

    def __init__(self, path: Any, dropout: float) -> None:
        """Loads the encoder."""
        super().__init__()
        self.bert = transformers.BertModel.from_pretrained(
            path, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
        self.dropout = torch.nn.Dropout(dropout)
        self.classifier = torch.nn.Linear(self.bert.config.hidden_size, 1)

    def forward(self, cls_positions: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """[B, K, 1]."""
        hidden = self.bert(**inputs).last_hidden_state
        at = cls_positions[..., None].expand(-1, -1, hidden.shape[-1])
        pooled = torch.tanh(self.bert.pooler.dense(hidden.gather(1, at)))
        return self.classifier(self.dropout(pooled))


def opened(task: str, path: Any, head: dict[str, Any], dropout: float) -> torch.nn.Module:
    """The network with the weights of `path`, and the affine map `head` on top."""
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


def trained(network: torch.nn.Module, config: FinetuneConfig, train: Features) -> None:
    """Trains it on our batches with our learning rates."""
    torch.manual_seed(config.seed)
    rule = torch.optim.AdamW(groups(network), lr=1.0, betas=(0.9, 0.999), eps=1e-6)
    rates = jax.vmap(learning_rate(config.optimizer, config.steps))(np.arange(float(config.steps)))
    data = TaskBatches(train, config.train.batch_size, config.seed, {})
    network.train()
    for step in range(config.steps):
        arrays = data.batch_at(step).arrays
        for group in rule.param_groups:
            group["lr"] = float(rates[step])
        loss = objective(config.task, logits(config.task, network, arrays), arrays)
        rule.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
        rule.step()
    network.eval()


def groups(network: torch.nn.Module) -> list[dict[str, Any]]:
    """Parameters with and without weight decay."""
    named = list(network.named_parameters())
    plain = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
    known = set(map(id, plain))
    decayed = [p for _, p in named if id(p) not in known]
    return [
        {"params": decayed, "weight_decay": 0.01},
        {"params": plain, "weight_decay": 0.0},
    ]


def logits(task: str, network: torch.nn.Module, arrays: Arrays) -> torch.Tensor:
    """In the shape that our networks give."""
    inputs = {
        "input_ids": torch.tensor(arrays["token_ids"]).long(),
        "token_type_ids": torch.tensor(arrays["token_type_ids"]).long(),
        "attention_mask": torch.tensor(arrays["segment_ids"]).long(),
    }
    if task == "summarization":
        return network(torch.tensor(arrays["cls_positions"]).long(), **inputs)
    found = network(**inputs)
    if task == "qa":
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    if task == "multiple-choice":
        return found.logits[..., None]
    return found.logits if task == "tagging" else found.logits[:, None]


def objective(task: str, found: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """The mean loss over what has weight."""
    weights = torch.tensor(arrays["weights"])
    targets = {n: torch.tensor(arrays[n]).long() for n in ("labels", "start", "end") if n in arrays}
    if task == "qa":
        sides = [
            cross_entropy(found[..., number], targets[name], reduction="none")
            for number, name in enumerate(("start", "end"))
        ]
        losses = (sides[0] + sides[1]) / 2
    elif task == "summarization":
        losses = binary_cross_entropy_with_logits(
            found[..., 0], targets["labels"].float(), reduction="none"
        )
    else:
        scores = {"multiple-choice": (..., 0), "tagging": ...}.get(task, (slice(None), 0))
        losses = cross_entropy(
            found[scores].flatten(0, -2), targets["labels"].flatten(), reduction="none"
        ).reshape(weights.shape)
    return (losses * weights).sum() / weights.sum()


def predicted(task: str, network: torch.nn.Module, test: Features, batch_size: int) -> np.ndarray:
    """Logits of every row."""
    found = []
    with torch.no_grad():
        for first in range(0, len(test.examples), batch_size):
            part = {n: array[first : first + batch_size] for n, array in test.arrays.items()}
            found.append(logits(task, network, part).numpy())
    return np.concatenate(found)
