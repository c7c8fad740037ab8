"""Hugging Face folders; the only file that imports safetensors.

DIR/config.json, model.safetensors (or several, with an index), tokenizer files
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bert_jax.config.model import ModelConfig
from bert_jax.nn.tensor_names import (
    ARCHITECTURES,
    ENCODER,
    HEAD,
    MLM,
    NSP,
    POOLER,
    ModelWeights,
    canonical,
    from_tensors,
    part_names,
    to_hugging_face,
)
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.runtime.paths import check_kind
from pipelines.json_fields import check_fields
from pipelines.json_files import read_json
from pipelines.models.formats.config_fields import CONFIG_FIELDS, TEXT_COLUMNS, THRESHOLDS
from pipelines.models.formats.config_json import Gelu, described, network
from pipelines.models.formats.other_weights import CONFIG, INDEX, WEIGHTS, remedy

_ACTIVATIONS: Mapping[str, Gelu] = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# Copies of tied tensors, and a constant, from older versions of transformers.
_COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_CONSTANTS = {"bert.embeddings.position_ids", "bert.embeddings.token_type_ids"}
# Architectures in the order in which tensors are assigned to them.
_BY_TENSORS = (
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertModel",
)
_PART_TITLES = {
    POOLER: "pooler",
    MLM: "masked language modeling head",
    NSP: "next sentence head",
    HEAD: "task head",
}
_NAMED_CLASSES = ("BertForSequenceClassification", "BertForTokenClassification")
_TAG = re.compile(r"O|[BIESLUM][-_].+|.+[-_][BIESLUM]")


def is_folder(folder: Path) -> bool:
    """Return whether the folder has this format."""
    return (folder / CONFIG).is_file()


def has_weights(folder: Path) -> bool:
    """Return whether the folder has weights that can be read."""
    return is_folder(folder) and any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def read(folder: Path) -> ModelWeights:
    """Read the model of a Hugging Face folder.

    The tensors decide which parts the model has; ``architectures`` decides between architectures
    that have the same tensors. A part that cannot be used is left out, with the reason, because
    many commands need only the encoder.

    Raises:
        BadInputError: It is not BERT, or a file is missing or damaged.
    """
    if not has_weights(folder):
        reason = f"{folder} has no {WEIGHTS}; download the model again, with its weights"
        raise BadInputError(remedy(folder) or reason)
    path = folder / CONFIG
    config_json = read_json(path)
    if (kind := config_json.get("model_type", "bert")) != "bert":
        raise BadInputError(f"{path}: model_type {kind!r} is not BERT; use a model of type bert")
    check_fields(config_json, CONFIG_FIELDS, path)
    config = network(config_json, path, _ACTIVATIONS)
    file = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
    named = _without_prefix(_tensors(folder), file)
    tensors = {canonical(name): array for name, array in named.items()}
    unusable = {}
    if reason := _untied(tensors, config_json, file):
        unusable[MLM] = reason
    architecture = _architecture(config_json, tensors, config, path)
    unusable = _incomplete(tensors, architecture, config, file) | unusable
    params = from_tensors(tensors, "hugging_face", architecture, config, str(file), unusable)
    labels: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    if HEAD in params:
        try:
            labels = _labels(config_json, params["head"]["bias"].size, architecture, path)
            thresholds = _thresholds(config_json, len(labels), path)
        except BadInputError as error:
            unusable[HEAD] = str(error)
            del params[HEAD]
    used = chain(*part_names("hugging_face", architecture, config).values())
    if ignored := sorted(set(tensors).difference(used) - _CONSTANTS - set(_COPIES)):
        more = f" and {len(ignored) - 5} more" if len(ignored) > 5 else ""
        say(
            f"{file}: ignoring tensors that {architecture} does not have:"
            f" {', '.join(ignored[:5])}{more}"
        )
    for part, reason in unusable.items():
        say(f"the {_PART_TITLES[part]} is not used: {reason}")
    problem_type = str(config_json.get("problem_type") or "")
    columns = _text_columns(config_json, path) if HEAD in params else ()
    return ModelWeights(
        params, config, architecture, labels, problem_type, thresholds, columns, unusable
    )


def _without_prefix(tensors: dict[str, np.ndarray], file: Path) -> dict[str, np.ndarray]:
    """Remove what a wrapper of the model (DataParallel, Lightning) put before the names."""
    table = "embeddings.word_embeddings.weight"
    names = [name for name in tensors if name.endswith(table)]
    prefix = names[0].removesuffix(table).removesuffix("bert.") if len(names) == 1 else ""
    if prefix:
        say(f"{file}: reading tensors without the prefix {prefix!r}")
    return {name.removeprefix(prefix): array for name, array in tensors.items()}


def _untied(tensors: dict[str, np.ndarray], config_json: Mapping[str, Any], file: Path) -> str:
    """Merge copies of tied tensors; return why the decoder cannot be used, or an empty string."""
    decoder, *_ = _COPIES
    is_untied = config_json.get("tie_word_embeddings") is False
    if is_untied and "cls.predictions.bias" in tensors and decoder not in tensors:
        return (
            f"{file}: no tensor {decoder}, although tie_word_embeddings is false; set it to true in"
            f" {CONFIG} if the decoder is the embedding"
        )
    reason = ""
    for copy, of in _COPIES.items():
        if copy in tensors and of not in tensors:
            tensors[of] = tensors.pop(copy)
        elif copy in tensors and not np.array_equal(tensors.pop(copy), tensors[of], equal_nan=True):
            reason = reason or (
                f"{file}: {copy} differs from {of}, but bert-jax has one tensor for both; use a"
                " model with tied embeddings"
            )
    return reason


def _architecture(
    config_json: Mapping[str, Any], tensors: Mapping[str, Any], config: ModelConfig, path: Path
) -> str:
    """Return the architecture of the tensors; print it unless ``architectures`` names it."""
    names = config_json.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"{path}: architectures must be a list of names, not {names!r:.60}")
    fitting = [name for name in ARCHITECTURES if _fits(name, tensors, config)] or ["BertModel"]
    for name in names:
        if name in fitting and name != "BertModel":
            return name
    candidates = [name for name in _BY_TENSORS if name in fitting]
    if candidates[0] == "BertForSequenceClassification" and _has_tags(config_json):
        candidates.remove(candidates[0])
    if candidates[0] != (names or ["BertModel"])[0]:
        named = f"architectures is {', '.join(names)}" if names else "no architectures"
        say(f"{path}: {named}; the tensors are those of {candidates[0]}, which is used")
    return candidates[0]


def _fits(name: str, tensors: Mapping[str, Any], config: ModelConfig) -> bool:
    """Return whether the tensors contain something of each part of an architecture."""
    kind = ARCHITECTURES[name]
    head = tensors.get(f"{kind.head}.weight")
    if HEAD in kind.parts and (head is None or not _is_head(name, head.shape, config)):
        return False
    existing = part_names("hugging_face", name, config)
    needed = kind.parts - {ENCODER, HEAD}
    return all(any(tensor in tensors for tensor in existing[part]) for part in needed)


def _is_head(name: str, shape: tuple[int, ...], config: ModelConfig) -> bool:
    outputs = {"BertForQuestionAnswering": 2, "BertForMultipleChoice": 1}.get(name)
    return len(shape) == 2 and shape[1] == config.hidden_size and outputs in (None, shape[0])


def _has_tags(config_json: Mapping[str, Any]) -> bool:
    """Return whether the classes look like tags of entities (O, B-LOC, …)."""
    names = config_json.get("id2label")
    names = list(names.values()) if isinstance(names, dict) else []
    return "O" in names and all(isinstance(name, str) and _TAG.fullmatch(name) for name in names)


def _incomplete(
    tensors: Mapping[str, Any], architecture: str, config: ModelConfig, file: Path
) -> dict[str, str]:
    """Return the parts, except the encoder, of which a tensor is missing, with the reason."""
    reasons = {}
    for part, names in part_names("hugging_face", architecture, config).items():
        missing = [name for name in names if name not in tensors]
        if part != ENCODER and 0 < len(missing) < len(names):
            reasons[part] = f"{file}: no tensor {missing[0]}; use a file that has it"
    return reasons


def _labels(
    config_json: Mapping[str, Any], count: int, architecture: str, path: Path
) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        BadInputError: They do not match the head.
    """
    names = config_json.get("id2label")
    # A single output is a score, unless it is a label; the config may list two default classes.
    is_score = count == 1 and config_json.get("problem_type") != "multi_label_classification"
    if not names or is_score or architecture not in _NAMED_CLASSES:
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(count)}:
        raise BadInputError(
            f"{path}: id2label does not name the {count} classes of the head; correct it"
        )
    labels = tuple(str(names[str(i)]) for i in range(count))
    if len(set(labels)) < count:
        second = next(i for i in range(count) if labels[i] in labels[:i])
        raise BadInputError(
            f"{path}: id2label gives the classes {labels.index(labels[second])} and {second} the"
            f" same name {labels[second]!r:.60}; rename one of them"
        )
    ids = config_json.get("label2id")
    if isinstance(ids, dict) and ids and ids != {label: i for i, label in enumerate(labels)}:
        say(f"{path}: label2id differs from id2label, which is used")
    return labels


def _thresholds(config_json: Mapping[str, Any], count: int, path: Path) -> tuple[float, ...]:
    values = config_json.get(THRESHOLDS) or []
    fit = isinstance(values, list) and len(values) in (0, count)
    if not fit or not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
        raise BadInputError(
            f"{path}: {THRESHOLDS} must be a list of {count} numbers from 0 to 1; correct it, or"
            " remove it to use 0.5"
        )
    return tuple(map(float, values))


def _text_columns(config_json: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = config_json.get(TEXT_COLUMNS) or []
    fit = isinstance(names, list) and len(names) <= 2
    if not fit or not all(isinstance(name, str) for name in names):
        raise BadInputError(
            f"{path}: {TEXT_COLUMNS} must be a list of one or two names; correct it, or remove it"
        )
    return tuple(names)


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    if (folder / WEIGHTS).is_file():
        return _read_file(folder / WEIGHTS)
    files = read_json(folder / INDEX).get("weight_map")
    if not isinstance(files, dict):
        raise BadInputError(f"{folder / INDEX} has no weight_map; download it again")
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(map(str, files.values()))):
        if Path(name).name != name:
            raise BadInputError(f"{folder / INDEX} names {name!r}; move that file beside it")
        tensors |= _read_file(folder / name)
    return tensors


def _read_file(path: Path) -> dict[str, np.ndarray]:
    check_kind(path)
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise BadInputError(f"{path} is missing; download it again") from None
    except (OSError, UnicodeEncodeError) as error:  # from a library, without the name of the file
        raise BadInputError(f"{path} cannot be read: {error}; download it again") from None
    except (
        SafetensorError,
        TypeError,
        AttributeError,
    ) as error:  # a dtype that NumPy does not have
        raise BadInputError(
            f"{path} is damaged or not safetensors ({error}); download it again"
        ) from None


def write(folder: Path, model: ModelWeights, pad_id: int) -> None:
    """Write ``config.json`` and ``model.safetensors`` in the format of transformers."""
    tensors = to_hugging_face(model.params, model.architecture)
    # transformers refuses a file without this metadata.
    try:
        # The library writes the memory of an array in its order there, not the array's.
        tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise UserError(
            f"{folder / WEIGHTS} cannot be written ({error}); make room, or choose another folder"
        ) from None
    config = described(model.config) | {
        "architectures": [model.architecture],
        "model_type": "bert",
        "hidden_act": "gelu" if model.config.gelu == "erf" else "gelu_new",
        "position_embedding_type": "absolute",
        "pad_token_id": pad_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    if model.problem_type:
        config["problem_type"] = model.problem_type
    if model.thresholds:
        config[THRESHOLDS] = list(model.thresholds)
    if model.text_columns:
        config[TEXT_COLUMNS] = list(model.text_columns)
    # Multiple choice has one score, without a name in this format.
    if model.labels and model.architecture != "BertForMultipleChoice":
        config["id2label"] = {str(i): name for i, name in enumerate(model.labels)}
        config["label2id"] = {name: i for i, name in enumerate(model.labels)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
