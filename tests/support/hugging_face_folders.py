"""Folders of Hugging Face that are changed: keys of config.json and tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.models.formats.hugging_face import CONFIG, WEIGHTS
from pipelines.models.open import LoadedModel, open_model
from support.commands import ROOT

THEIRS = ROOT / "tests/golden/hugging_face"
MLM_BIAS, DECODER = "cls.predictions.bias", "cls.predictions.decoder.weight"
SEQUENCE, TOKENS = "BertForSequenceClassification", "BertForTokenClassification"


def edit(folder: Path, **keys: Any) -> None:
    """Change config.json; None removes a key."""
    path = folder / CONFIG
    content = json.loads(path.read_text("utf-8")) | keys
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content), "utf-8")


def change(folder: Path, *without: str, **new: np.ndarray) -> None:
    """Remove the tensors that begin with `without`; add `new`, with ``__`` for a dot."""
    arrays = load_file(folder / WEIGHTS)
    arrays = {name: a for name, a in arrays.items() if not name.startswith(without or ("-",))}
    arrays |= {name.replace("__", "."): array for name, array in new.items()}
    save_file(arrays, folder / WEIGHTS, {"format": "pt"})


def classifier(classes: int, name: str = "classifier") -> dict[str, np.ndarray]:
    weight = np.arange(classes * 32, dtype=np.float32).reshape(classes, 32)
    return {f"{name}__weight": weight, f"{name}__bias": np.zeros(classes, np.float32)}


def opened(folder: Path) -> LoadedModel:
    return open_model(folder, Partitioner(devices()[:1]))
