"""Folders of google-research/bert.

DIR/bert_config.json, bert_model.ckpt.index, bert_model.ckpt.data-*, vocab.txt
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bert_jax.nn.tensor_names import ModelWeights, from_tensors
from bert_jax.runtime.errors import BadInputError
from pipelines.json_files import read_json
from pipelines.models.formats.config_json import Gelu, network
from pipelines.models.formats.tensor_bundle import Bundle

CONFIG = "bert_config.json"
WEIGHTS = "bert_model.ckpt"

# Architecture -> a tensor of it; the first one in the file decides.
_DISTINCTIVE = {
    "BertForSequenceClassification": "output_weights",
    "BertForQuestionAnswering": "cls/squad/output_weights",
    "BertForPreTraining": "cls/seq_relationship/output_weights",
    "BertForMaskedLM": "cls/predictions/output_bias",
}
# Its gelu is the tanh approximation (modeling.py).
_ACTIVATIONS: Mapping[str, Gelu] = {"gelu": "tanh"}


def is_folder(folder: Path) -> bool:
    """Return whether the folder has this format."""
    return (folder / CONFIG).is_file()


def read(folder: Path) -> ModelWeights:
    """Read the model of a folder that google-research/bert published or its scripts wrote.

    Raises:
        BadInputError: A file is missing or damaged, or contains another network.
    """
    config = network(read_json(folder / CONFIG), folder / CONFIG, _ACTIVATIONS)
    prefix = _prefix(folder)
    bundle = Bundle(prefix)
    architecture = next((a for a, t in _DISTINCTIVE.items() if t in bundle), "BertModel")
    params = from_tensors(bundle, "google_research", architecture, config, f"{prefix}.index")
    labels: tuple[str, ...] = ()
    if "head" in params:
        labels = tuple(f"LABEL_{i}" for i in range(params["head"]["bias"].size))
    return ModelWeights(params, config, architecture, labels)


def _prefix(folder: Path) -> Path:
    """Return the published checkpoint, or else the newest one of a training."""
    if (folder / f"{WEIGHTS}.index").is_file():
        return folder / WEIGHTS
    steps = {
        int(match[1]): path
        for path in folder.glob("model.ckpt-*.index")
        if (match := re.fullmatch(r"model\.ckpt-(\d+)\.index", path.name))
    }
    if not steps:
        raise BadInputError(f"{folder} has no {WEIGHTS}.index; extract the whole archive there")
    return steps[max(steps)].with_suffix("")
