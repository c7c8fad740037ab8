"""What a folder contains instead of weights that can be read."""

from __future__ import annotations

from pathlib import Path

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
    for name, (reason, option) in _CONVERTED.items():
        for file in (folder / name, folder / f"{name}.index.json"):
            if file.is_file():
                return (
                    f"{file} is not supported ({reason}); convert it with transformers:"
                    f" {_architecture(folder)}.from_pretrained({str(folder)!r}{option})"
                    f".save_pretrained(NEW), which writes {WEIGHTS}"
                )
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


def _architecture(folder: Path) -> str:
    file = folder / CONFIG
    names = read_json(file).get("architectures") if file.is_file() else None
    return str(names[0]) if isinstance(names, list) and names else "BertModel"
