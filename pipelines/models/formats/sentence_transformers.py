"""The files that sentence-transformers reads beside a Hugging Face folder.

DIR/modules.json, 1_Pooling/config.json, sentence_bert_config.json,
config_sentence_transformers.json

The names of classes and keys are those of version 2, which later versions read as well.

Source: the files that sentence-transformers 6.2.0 and 2.0.0 write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.json_files import read_json

MODULES = "modules.json"
_POOLING = "1_Pooling"
_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}


def write(folder: Path, pooling: str, hidden_size: int, max_length: int) -> None:
    """Write the files.

    Args:
        folder: With the model in the format of Hugging Face.
        pooling: mean, cls or max, over all tokens with [CLS] and [SEP].
        hidden_size: Of the vectors.
        max_length: Most tokens of a text, with [CLS] and [SEP].
    """
    modules = [("", "Transformer"), (_POOLING, "Pooling")]
    _write(
        folder / MODULES,
        [
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, (path, kind) in enumerate(modules)
        ],
    )
    (folder / _POOLING).mkdir()
    config: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    config |= {key: name == pooling for key, name in _KEYS.items()}
    _write(folder / _POOLING / "config.json", config)
    # The tokenizer lower-cases as its own config says.
    limits = {"max_seq_length": max_length, "do_lower_case": False}
    _write(folder / "sentence_bert_config.json", limits)
    _write(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def poolings(folder: Path) -> tuple[list[str], list[str]]:
    """Return the poolings of a folder of sentence-transformers, and its modules after them.

    Raises:
        BadInputError: A file cannot be read.
    """
    if not (folder / MODULES).is_file() or not (folder / _POOLING / "config.json").is_file():
        return [], []
    modules = json.loads((folder / MODULES).read_text("utf-8"))
    names = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    config = read_json(folder / _POOLING / "config.json")
    modes = [name for key, name in _KEYS.items() if config.get(key)]
    if mode := config.get("pooling_mode"):  # since version 6
        modes = [mode] if isinstance(mode, str) else list(mode)
    return modes, [name for name in names if name not in ("Transformer", "Pooling")]


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
