"""Hugging Face folders; the only file that imports safetensors.

DIR/config.json, model.safetensors (or several, with an index), tokenizer files
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bert_jax.nn.tensor_names import (
    ARCHITECTURES,
    HEAD,
    ModelWeights,
    canonical,
    from_tensors,
    names_used,
    parts,
    to_hugging_face,
)
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, UserError
from bert_jax.runtime.paths import check_kind
from pipelines.json_files import read_json
from pipelines.models.formats.config_json import Gelu, described, network

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = {
    "pytorch_model.bin": "a pickle can run any program",
    "pytorch_model.bin.index.json": "a pickle can run any program",
    "tf_model.h5": "version 4 of transformers does, with from_tf=True",
}

_ACTIVATIONS: Mapping[str, Gelu] = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# Copies of tied tensors, and a constant, from older versions of transformers.
_COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_CONSTANTS = {"bert.embeddings.position_ids"}


def is_folder(folder: Path) -> bool:
    """Return whether the folder has this format."""
    return (folder / CONFIG).is_file()


def has_weights(folder: Path) -> bool:
    """Return whether the folder has weights that can be read."""
    return is_folder(folder) and any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def read(folder: Path) -> ModelWeights:
    """Read the model of a Hugging Face folder.

    Raises:
        BadInputError: It is not BERT, or a file is missing or damaged.
    """
    path = folder / CONFIG
    config_json = read_json(path)
    _refuse_relatives(config_json, path)
    config = network(config_json, path, _ACTIVATIONS)
    tensors = {canonical(name): array for name, array in _tensors(folder).items()}
    file = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
    for copy, of in _COPIES.items():
        if copy in tensors and of not in tensors:
            tensors[of] = tensors.pop(copy)
        elif copy in tensors and not np.array_equal(tensors.pop(copy), tensors[of], equal_nan=True):
            raise BadInputError(
                f"{file}: {copy} differs from {of}, but bert-jax has one tensor for both;"
                " use a model with tied embeddings"
            )
    architecture = _architecture(config_json, tensors, path)
    params = from_tensors(tensors, "hugging_face", architecture, config, str(file))
    used = {canonical(name) for name in names_used(params, architecture)}
    unused = sorted(set(tensors) - used - _CONSTANTS)
    if unused:
        say(f"{file}: ignoring tensors that {architecture} does not have: {', '.join(unused[:5])}")
    labels = _labels(config_json, params, path)
    return ModelWeights(
        params, config, architecture, labels, str(config_json.get("problem_type") or "")
    )


def _refuse_relatives(config_json: Mapping[str, Any], path: Path) -> None:
    kind = config_json.get("model_type", "bert")
    if kind != "bert":
        raise BadInputError(f"{path}: model_type {kind!r} is not BERT; use a model of type bert")
    absolute = config_json.get("position_embedding_type") in (None, "absolute")
    for key, fits in {
        "position_embedding_type": absolute,
        "is_decoder": not config_json.get("is_decoder"),
        "add_cross_attention": not config_json.get("add_cross_attention"),
        "tie_word_embeddings": config_json.get("tie_word_embeddings") is not False,
    }.items():
        if not fits:
            raise BadInputError(
                f"{path}: {key}: {config_json[key]} is not supported; use a model without it"
            )


def _architecture(config_json: Mapping[str, Any], tensors: Mapping[str, Any], path: Path) -> str:
    names = config_json.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"{path}: architectures must be a list of names, not {names!r:.60}")
    if names:
        if names[0] not in ARCHITECTURES:
            raise BadInputError(
                f"{path}: architecture {names[0]!r} is unknown; valid: {', '.join(ARCHITECTURES)}"
            )
        if names[0] != "BertModel":
            return names[0]
    if "cls.predictions.bias" not in tensors:
        return "BertModel"
    return "BertForPreTraining" if "cls.seq_relationship.bias" in tensors else "BertForMaskedLM"


def _labels(config_json: Mapping[str, Any], params: Any, path: Path) -> tuple[str, ...]:
    if HEAD not in parts(params):
        return ()
    count = params["head"]["bias"].size
    names = config_json.get("id2label")
    if not names or count == 1:  # a score; the config may list the two default classes
        names = {str(i): f"LABEL_{i}" for i in range(count)}
    expected = {str(i) for i in range(count)}
    if not isinstance(names, dict) or set(map(str, names)) != expected:
        raise BadInputError(
            f"{path}: id2label does not name the {count} classes of the head; correct it"
        )
    by_id = {str(key): str(value) for key, value in names.items()}
    return tuple(by_id[str(i)] for i in range(count))


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    if (folder / WEIGHTS).is_file():
        return _read_file(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise BadInputError(_no_weights(folder))
    files = read_json(folder / INDEX).get("weight_map")
    if not isinstance(files, dict):
        raise BadInputError(f"{folder / INDEX} has no weight_map; download it again")
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(map(str, files.values()))):
        if Path(name).name != name:
            raise BadInputError(f"{folder / INDEX} names {name!r}; move that file beside it")
        tensors |= _read_file(folder / name)
    return tensors


def _no_weights(folder: Path) -> str:
    names = read_json(folder / CONFIG).get("architectures") or ["BertModel"]
    for name, reason in _OTHER_WEIGHTS.items():
        if (folder / name).is_file():
            return (
                f"{folder / name} is not supported ({reason}); convert it with transformers:"
                f" {names[0]}.from_pretrained({str(folder)!r}).save_pretrained(NEW), which writes"
                f" {WEIGHTS}"
            )
    return f"{folder} has no {WEIGHTS}; download the model again, with its weights"


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
    # Multiple choice has one score, without a name in this format.
    if model.labels and model.architecture != "BertForMultipleChoice":
        config["id2label"] = {str(i): name for i, name in enumerate(model.labels)}
        config["label2id"] = {name: i for i, name in enumerate(model.labels)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
