"""The files of models and tokenizers of the Hugging Face hub: safetensors, never pickles."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bert_jax.runtime.errors import BadInputError
from pipelines.data.hub.download import download
from pipelines.data.hub.repository import Listing, Repository, listing, repository
from pipelines.data.tokenizers.tokenizer import (
    CONFIG_FILE,
    JSON_FILE,
    SENTENCEPIECE_FILE,
    VOCAB_FILE,
)
from pipelines.data.tokenizers.wordpiece_files import ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE
from pipelines.json_files import read_json

_CONFIG = "config.json"
_TOKENIZER = (SENTENCEPIECE_FILE, VOCAB_FILE, JSON_FILE, CONFIG_FILE)
_MORE_TOKENS = (SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE)
_POOLING = ("modules.json", "1_Pooling/config.json")  # of sentence-transformers
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-[^/]*\.safetensors")
_OTHER_WEIGHTS = re.compile(r".*\.(bin|h5|msgpack|onnx|gguf|ckpt|pt|pth|safetensors)")
_PICKLES = re.compile(r"pytorch_model.*\.bin")


def model_folder(name: object) -> Path:
    """Return the folder of the model ``hf:ORG/NAME[@REVISION]`` in the cache.

    Raises:
        BadInputError: There is no such model, it is not BERT, or it has no safetensors.
        UnreachableError: The hub does not respond, and the model is not in the cache.
    """
    source = repository(name)
    files = listing(source)
    weights = _weights(source, files)
    small = _present(files, (*_TOKENIZER, *_MORE_TOKENS, *_POOLING))
    if _CONFIG not in files.files:
        raise _lacking(source, files, f"no {_CONFIG}", "choose a model of transformers")

    def check(config: Path) -> None:
        """Refuse a model that cannot be used before its weights are downloaded."""
        kind = read_json(config).get("model_type", "bert")
        if kind != "bert":
            raise BadInputError(f"{source}: model_type {kind!r} is not BERT; choose another model")

    return download(source, files, [_CONFIG, *small, *weights], check)


def tokenizer_folder(name: object) -> Path:
    """Return the folder of the tokenizer ``hf:ORG/NAME[@REVISION]``; see `model_folder`."""
    source = repository(name)
    files = listing(source)
    if not _present(files, _TOKENIZER[:3]):
        raise _lacking(source, files, "no tokenizer", f"it needs {' or '.join(_TOKENIZER[:3])}")
    return download(source, files, _present(files, (*_TOKENIZER, *_MORE_TOKENS, _CONFIG)))


def _present(files: Listing, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in files.files]


def _weights(source: Repository, files: Listing) -> list[str]:
    if _WEIGHTS in files.files:
        return [_WEIGHTS]
    if _INDEX in files.files:
        return [*filter(_SHARD.fullmatch, files.files), _INDEX]
    if not files.is_complete:
        raise _lacking(source, files, "no weights", "")
    remedy = "choose another model"
    if _CONFIG in files.files and any(map(_PICKLES.fullmatch, files.files)):
        config = read_json(download(source, files, [_CONFIG]) / _CONFIG)
        architecture = (config.get("architectures") or ["BertModel"])[0]
        remedy = (
            "a pickle can run any program; convert it with transformers:"
            f" {architecture}.from_pretrained({source.name!r}).save_pretrained(DIR), or use a pull"
            " request of the model that adds safetensors: …@refs/pr/N"
        )
    raise _lacking(source, files, f"no {_WEIGHTS}", remedy)


def _lacking(source: Repository, files: Listing, what: str, remedy: str) -> BadInputError:
    if not files.is_complete:
        return BadInputError(
            f"{source}: the cache has {what} of it; run the command once with access to the hub"
            f" (it contains {', '.join(files.files)})"
        )
    others = sorted(filter(_OTHER_WEIGHTS.fullmatch, files.files)) or sorted(files.files)
    return BadInputError(
        f"{source} has {what}, but {', '.join(others[:5]) or 'no files'}; {remedy}"
    )
