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
from pipelines.models.formats.config_json import Gelu, described, network, read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = {
    "pytorch_model.bin": "a pickle can run any program",
    "pytorch_model.bin.index.json": "a pickle can run any program",
    "tf_model.h5": "version 4 of transformers does, with from_tf=True",
}

_ACTIVATIONS: Mapping[str, Gelu] = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
# Copies of tied tensors, and a constant, that older versions of transformers wrote.
_COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_CONSTANTS = {"bert.embeddings.position_ids"}


def is_folder(folder: Path) -> bool:
    """Whether it is of this kind."""
    return (folder / CONFIG).is_file()


def has_weights(folder: Path) -> bool:
    """Whether there is something to read."""
    return is_folder(folder) and any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def read(folder: Path) -> ModelWeights:
    """The model in a Hugging Face folder.

    Raises:
        BadInputError: It is not BERT, or a file is missing, damaged or holds another network.
    """
    path = folder / CONFIG
    given = read_json(path)
    _refuse_relatives(given, path)
    config = network(given, path, _ACTIVATIONS)
    tensors = {canonical(name): array for name, array in _tensors(folder).items()}
    file = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
    for copy, of in _COPIES.items():
        if copy in tensors and of not in tensors:
            tensors[of] = tensors.pop(copy)
        elif copy in tensors and not np.array_equal(tensors.pop(copy), tensors[of], equal_nan=True):
            raise BadInputError(f"{file}: {copy} differs from {of}; here both are one tensor")
    architecture = _architecture(given, tensors, path)
    params = from_tensors(tensors, "hugging_face", architecture, config, str(file))
    used = {canonical(name) for name in names_used(params, architecture)}
    unused = sorted(set(tensors) - used - _CONSTANTS)
    if unused:
        say(f"{file}: not used, as {architecture} has no such part: {', '.join(unused[:5])}")
    labels = _labels(given, params, path)
    return ModelWeights(params, config, architecture, labels, str(given.get("problem_type") or ""))


def _refuse_relatives(given: Mapping[str, Any], path: Path) -> None:
    kind = given.get("model_type", "bert")
    if kind != "bert":
        raise BadInputError(f"{path}: model_type {kind!r} is another network than BERT")
    absolute = given.get("position_embedding_type") in (None, "absolute")
    for key, fits in {
        "position_embedding_type": absolute,
        "is_decoder": not given.get("is_decoder"),
        "add_cross_attention": not given.get("add_cross_attention"),
        "tie_word_embeddings": given.get("tie_word_embeddings") is not False,
    }.items():
        if not fits:
            raise BadInputError(f"{path}: {key}: {given[key]} is not supported; BERT has it not")


def _architecture(given: Mapping[str, Any], tensors: Mapping[str, Any], path: Path) -> str:
    names = given.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"{path}: architectures must be a list of names, not {names!r}")
    if names:
        if names[0] not in ARCHITECTURES:
            raise BadInputError(
                f"{path}: architecture {names[0]!r} is unknown; known: {', '.join(ARCHITECTURES)}"
            )
        if names[0] != "BertModel":
            return names[0]
    if "cls.predictions.bias" not in tensors:
        return "BertModel"
    return "BertForPreTraining" if "cls.seq_relationship.bias" in tensors else "BertForMaskedLM"


def _labels(given: Mapping[str, Any], params: Any, path: Path) -> tuple[str, ...]:
    if HEAD not in parts(params):
        return ()
    count = params["head"]["bias"].size
    names = given.get("id2label")
    if not names or count == 1:  # a score, whatever the config says of its default two classes
        names = {str(i): f"LABEL_{i}" for i in range(count)}
    expected = {str(i) for i in range(count)}
    if not isinstance(names, dict) or set(map(str, names)) != expected:
        raise BadInputError(f"{path}: id2label does not name the {count} classes of the head")
    by_id = {str(key): str(value) for key, value in names.items()}
    return tuple(by_id[str(i)] for i in range(count))


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    if (folder / WEIGHTS).is_file():
        return _read_file(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise BadInputError(_no_weights(folder))
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict):
        raise BadInputError(f"{folder / INDEX} has no weight_map")
    found: dict[str, np.ndarray] = {}
    for name in sorted({str(place) for place in places.values()}):
        if Path(name).name != name:
            raise BadInputError(f"{folder / INDEX} names {name!r}, which is not beside it")
        found |= _read_file(folder / name)
    return found


def _no_weights(folder: Path) -> str:
    names = read_json(folder / CONFIG).get("architectures") or ["BertModel"]
    for name, reason in _OTHER_WEIGHTS.items():
        if (folder / name).is_file():
            return (
                f"{folder / name} is not read ({reason}); convert it once with transformers:"
                f" {names[0]}.from_pretrained({str(folder)!r}).save_pretrained(NEW), which writes"
                f" {WEIGHTS}"
            )
    return f"{folder} has no {WEIGHTS}"


def _read_file(path: Path) -> dict[str, np.ndarray]:
    check_kind(path)
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise BadInputError(f"{path} is missing; download it again") from None
    except (OSError, UnicodeEncodeError) as error:  # of a library that names no file
        raise BadInputError(f"{path} cannot be read: {error}; download it again") from None
    except (SafetensorError, TypeError, AttributeError) as error:  # a type NumPy has not
        raise BadInputError(f"{path} is damaged or not safetensors: {error}") from None


def write(folder: Path, model: ModelWeights, pad_id: int) -> None:
    """Writes ``config.json`` and ``model.safetensors`` as transformers would."""
    tensors = to_hugging_face(model.params, model.architecture)
    # transformers refuses a file without this note.
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} cannot be written: {error}") from None
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
    # Multiple choice has one score, which has no name there.
    if model.labels and model.architecture != "BertForMultipleChoice":
        config["id2label"] = {str(i): name for i, name in enumerate(model.labels)}
        config["label2id"] = {name: i for i, name in enumerate(model.labels)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
