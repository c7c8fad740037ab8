"""The same network in PyTorch: BERT of transformers with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

Arrays = Mapping[str, np.ndarray]

# Finite, as in bert_jax.
_MASKED_SCORE = -1e9


def random_model(seed: int, **keys: Any) -> BertForPreTraining:
    """Return a network with random weights, including biases and LayerNorms."""
    torch.manual_seed(seed)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(**dropout, **keys, attn_implementation="eager")
    model = BertForPreTraining(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            center = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            parameter.copy_(center + 0.2 * torch.randn_like(parameter))
    return model


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Convert a batch to PyTorch tensors."""
    return {
        name: torch.tensor(array, dtype=torch.float32 if array.dtype.kind == "f" else torch.int64)
        for name, array in arrays.items()
    }


def mask(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the mask that is added to the scores, [B, 1, T, S]."""
    ids = batch["segment_ids"]
    allowed = (ids[:, None, :] > 0).expand(-1, ids.shape[1], -1)
    if "position_ids" in batch:
        allowed = allowed & (ids[:, None, :] == ids[:, :, None])
    return torch.where(allowed, 0.0, _MASKED_SCORE)[:, None]


def losses(
    model: BertForPreTraining, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mean masked-token and next-sentence losses of a batch, and both logits."""
    hidden = model.bert(
        batch["token_ids"],
        attention_mask=mask(batch),
        token_type_ids=batch["token_type_ids"],
        position_ids=batch.get("position_ids"),
    ).last_hidden_state
    rows = torch.arange(hidden.shape[0])[:, None]
    mlm = model.cls.predictions(hidden[rows, batch["mlm_positions"]])
    positions = batch.get("cls_positions", torch.zeros_like(batch["nsp_labels"]))
    # The pooler of transformers takes the first token of each row.
    starts = hidden[rows, positions].flatten(0, 1)[:, None]
    nsp = model.cls.seq_relationship(model.bert.pooler(starts)).unflatten(0, positions.shape)
    return (
        _mean(mlm, batch["mlm_targets"], batch["mlm_weights"]),
        _mean(nsp, batch["nsp_labels"], batch["nsp_weights"]),
        mlm,
        nsp,
    )


def _mean(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    )
    return (nll * weights.flatten()).sum() / weights.sum()


def stages(model: BertForPreTraining, batch: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the outputs of all modules and the gradient of the loss for each parameter."""
    outputs: dict[str, torch.Tensor] = {}
    first = model.bert.encoder.layer[0]
    modules = {
        "embeddings": model.bert.embeddings,
        "attention": first.attention.output.dense,
        "layer": first,
        "encoder": model.bert.encoder,
    }

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    model.zero_grad()
    mlm_loss, nsp_loss, mlm, nsp = losses(model, batch)
    for hook in hooks:
        hook.remove()
    (mlm_loss + nsp_loss).backward()
    results = outputs | {"mlm": mlm, "nsp": nsp, "mlm_loss": mlm_loss, "nsp_loss": nsp_loss}
    arrays = {name: tensor.detach().numpy() for name, tensor in results.items()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        arrays[f"gradient/{name}"] = parameter.grad.numpy()
    return arrays


def training_curve(
    model: BertForPreTraining, batches: list[Arrays], learning_rates: np.ndarray
) -> np.ndarray:
    """Train with AdamW and clipping; return both losses before each update, [steps, 2]."""
    plain = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    plain_ids = set(map(id, plain))
    decayed = [p for p in model.parameters() if id(p) not in plain_ids]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    rule = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-6)
    curve = []
    for arrays, rate in zip(batches, learning_rates, strict=True):
        for group in rule.param_groups:
            group["lr"] = float(rate)
        mlm_loss, nsp_loss, _, _ = losses(model, tensors(arrays))
        rule.zero_grad()
        (mlm_loss + nsp_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rule.step()
        curve.append([mlm_loss.item(), nsp_loss.item()])
    return np.array(curve)
