"""What a folder contains instead of weights that can be read."""

from __future__ import annotations

from pathlib import Path

from bert_jax.nn.tensor_names import ARCHITECTURES
from pipelines.json_files import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# File -> the reason not to read it, and the option of transformers that converts it.
_CONVERTED = {
    "pytorch_model.bin": ("a pickle can run any program", ""),
    "flax_model.msgpack": ("version 4 of transformers reads it, with flax", ", from_flax=True"),
    "tf_model.h5": ("version 4 of transformers reads it", ", from_tf=True"),
}
_OTHER_PROGRAMS = {".onnx": "ONNX", ".gguf": "llama.cpp", ".tflite": "TensorFlow Lite"}
_MOST = 1000  # entries of a folder that are examined


def remedy(folder: Path) -> str:
    """Return why a folder has no readable weights, and what to do; empty if that is unknown."""
    for stem, (reason, option) in _CONVERTED.items():
        for file in (folder / stem, folder / f"{stem}.index.json"):
            if file.is_file():
                return f"{file} is not supported ({reason}); {_conversion(file, option)}"
    if (folder / "adapter_config.json").is_file():
        return (
            f"{folder} has only an adapter; merge it into its model with peft: merge_and_unload(),"
            " then save_pretrained(NEW)"
        )
    if not folder.is_dir():
        return ""
    names = sorted(entry.name for entry, _ in zip(folder.iterdir(), range(_MOST), strict=False))
    below = [name for name in names if _has_model(folder / name)]
    if below:
        return f"{folder} has no model of its own; choose one in it: {', '.join(below[-3:])}"
    for name in names:
        if name.endswith(".safetensors"):
            return f"{folder} has no {WEIGHTS}, but {name}; rename it if it has the weights of BERT"
        if program := _OTHER_PROGRAMS.get(Path(name).suffix):
            return (
                f"{folder / name} has weights for {program}, which cannot be trained; take the"
                f" model in the form of transformers, with {WEIGHTS}"
            )
    return ""


def _has_model(folder: Path) -> bool:
    """Return whether a folder has a config and weights, such as Trainer's checkpoint-500."""
    return (folder / CONFIG).is_file() and any(
        (folder / name).is_file() for name in (WEIGHTS, INDEX)
    )


def _conversion(file: Path, option: str) -> str:
    """Return how to convert weights; a class of transformers drops heads that it does not have."""
    config = file.with_name(CONFIG)
    names = read_json(config).get("architectures") if config.is_file() else None
    known = [name for name in ARCHITECTURES if isinstance(names, list) and name in names]
    if not known and file.suffix == ".bin":
        return (
            "convert it with PyTorch: safetensors.torch.save_file({k: v.contiguous().clone() for"
            f" k, v in torch.load({str(file)!r}, weights_only=True).items()}},"
            f" {str(file.with_name(WEIGHTS))!r})"
        )
    return (
        f"convert it with transformers: {[*known, 'BertModel'][0]}.from_pretrained("
        f"{str(file.parent)!r}{option}).save_pretrained(NEW), which writes {WEIGHTS}"
    )
