"""Names of the network's tensors in Hugging Face and google-research/bert, and the conversion.

One table maps every tensor. In those files, a linear map is a matrix ([out, in] in Hugging Face,
[in, out] in google-research/bert) and each layer has its own tensors. Here, attention kernels have
an axis for the heads, and all layers are stacked. The conversion only transposes and reshapes, so
that a round trip changes no bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from bert_jax.config.model import ModelConfig
from bert_jax.nn.encoder import Params, param_shapes
from bert_jax.runtime.errors import BadInputError

Naming = Literal["hugging_face", "google_research"]

ENCODER, POOLER, MLM, NSP, HEAD = "encoder", "pooler", "mlm", "nsp", "head"


@dataclass(frozen=True)
class Architecture:
    """The parts of a published architecture.

    Attributes:
        parts: Required parts: ENCODER, POOLER, MLM, NSP, HEAD.
        head: Name of the task head in Hugging Face.
        google_research: Name of the task head in google-research/bert.
    """

    parts: frozenset[str]
    head: str = ""
    google_research: str = ""


def _architecture(*parts: str, head: str = "", google_research: str = "") -> Architecture:
    return Architecture(frozenset({ENCODER, *parts}), head, google_research)


# Keyed by the name in Hugging Face, which users know.
ARCHITECTURES: Mapping[str, Architecture] = {
    "BertForPreTraining": _architecture(POOLER, MLM, NSP),
    "BertForMaskedLM": _architecture(MLM),
    "BertForNextSentencePrediction": _architecture(POOLER, NSP),
    "BertForSequenceClassification": _architecture(
        POOLER, HEAD, head="classifier", google_research="output"
    ),
    "BertForMultipleChoice": _architecture(POOLER, HEAD, head="classifier"),
    "BertForTokenClassification": _architecture(HEAD, head="classifier"),
    "BertForQuestionAnswering": _architecture(
        HEAD, head="qa_outputs", google_research="cls/squad/output"
    ),
    "BertModel": _architecture(),
}


class Entry(NamedTuple):
    """One tensor, or one per layer ({} is then the number of the layer).

    Attributes:
        path: Path in the parameter tree.
        hugging_face: Name in Hugging Face.
        google_research: Name in google-research/bert.
        transposed: The namings in which the matrix is [out, in].
    """

    path: str
    hugging_face: str
    google_research: str
    transposed: tuple[Naming, ...] = ()


_MAPS = {
    "bert/layers/attention/query": "bert.encoder.layer.{}.attention.self.query",
    "bert/layers/attention/key": "bert.encoder.layer.{}.attention.self.key",
    "bert/layers/attention/value": "bert.encoder.layer.{}.attention.self.value",
    "bert/layers/attention/output": "bert.encoder.layer.{}.attention.output.dense",
    "bert/layers/feed_forward/intermediate": "bert.encoder.layer.{}.intermediate.dense",
    "bert/layers/feed_forward/output": "bert.encoder.layer.{}.output.dense",
    "bert/pooler": "bert.pooler.dense",
    "mlm/transform": "cls.predictions.transform.dense",
}
_NORMS = {
    "bert/embeddings/norm": "bert.embeddings.LayerNorm",
    "bert/layers/attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
    "bert/layers/feed_forward_norm": "bert.encoder.layer.{}.output.LayerNorm",
    "mlm/norm": "cls.predictions.transform.LayerNorm",
}
_TABLES = {
    "bert/embeddings/token": "bert.embeddings.word_embeddings",
    "bert/embeddings/segment": "bert.embeddings.token_type_embeddings",
    "bert/embeddings/position": "bert.embeddings.position_embeddings",
}
_HF_ONLY: tuple[Naming, ...] = ("hugging_face",)
_BOTH: tuple[Naming, ...] = ("hugging_face", "google_research")


def _slashes(name: str) -> str:
    return name.replace("layer.{}", "layer_{}").replace(".", "/")


def _entries(architecture: Architecture) -> list[Entry]:
    entries = []
    for path, name in _TABLES.items():
        entries.append(Entry(path, f"{name}.weight", _slashes(name)))
    for path, name in _MAPS.items():
        tf_name = _slashes(name)
        entries.append(Entry(f"{path}/kernel", f"{name}.weight", f"{tf_name}/kernel", _HF_ONLY))
        entries.append(Entry(f"{path}/bias", f"{name}.bias", f"{tf_name}/bias"))
    for path, name in _NORMS.items():
        tf_name = _slashes(name)
        entries.append(Entry(f"{path}/scale", f"{name}.weight", f"{tf_name}/gamma"))
        entries.append(Entry(f"{path}/bias", f"{name}.bias", f"{tf_name}/beta"))
    entries += [
        Entry("mlm/bias", "cls.predictions.bias", "cls/predictions/output_bias"),
        Entry(
            "nsp/classifier/kernel",
            "cls.seq_relationship.weight",
            "cls/seq_relationship/output_weights",
            _BOTH,
        ),
        Entry(
            "nsp/classifier/bias", "cls.seq_relationship.bias", "cls/seq_relationship/output_bias"
        ),
    ]
    if HEAD in architecture.parts:
        name, tf_name = architecture.head, architecture.google_research
        entries.append(Entry("head/kernel", f"{name}.weight", f"{tf_name}_weights", _BOTH))
        entries.append(Entry("head/bias", f"{name}.bias", f"{tf_name}_bias"))
    return entries


def parts(params: Params) -> frozenset[str]:
    """Return which of ENCODER, POOLER, MLM, NSP, HEAD the tree has."""
    return frozenset(_part(path) for path, _ in named_leaves(params))


def _part(path: str) -> str:
    first, _, rest = path.partition("/")
    if first != "bert":
        return first
    return POOLER if rest.startswith("pooler/") else ENCODER


def abstract_params(config: ModelConfig, classes: int = 0) -> Params:
    """Return shapes and dtypes of a complete tree, with a task head if `classes` is not 0."""
    tree = param_shapes(config)
    if classes:
        shapes = {"kernel": (config.hidden_size, classes), "bias": (classes,)}
        tree["head"] = {
            name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()
        }
    return tree


def only(tree: Params, keep: frozenset[str]) -> Params:
    """Return the tree with only the parts in `keep`."""
    return _nested({path: leaf for path, leaf in named_leaves(tree) if _part(path) in keep})


def part_names(naming: Naming, architecture: str, config: ModelConfig) -> dict[str, list[str]]:
    """Return the names of the tensors of every part that the architecture can have."""
    names: dict[str, list[str]] = {}
    for entry in _entries(ARCHITECTURES[architecture]):
        names.setdefault(_part(entry.path), []).extend(_names(entry, naming, config))
    return names


def from_tensors(
    tensors: Mapping[str, np.ndarray],
    naming: Naming,
    architecture: str,
    config: ModelConfig,
    source: str,
    without: Collection[str] = (),
) -> Params:
    """Convert named tensors to parameters, including parts that the architecture does not require.

    Args:
        tensors: Tensors by name, of any floating-point type.
        naming: The convention that the names follow.
        architecture: One of ARCHITECTURES.
        config: The network.
        source: The file, for messages.
        without: Parts that are left out.

    Returns:
        A tree of float32 NumPy arrays.

    Raises:
        BadInputError: A tensor is missing, or its shape or type does not match the config.
    """
    kind = ARCHITECTURES[architecture]
    entries = _entries(kind)
    present = {_part(e.path) for e in entries if _names(e, naming, config)[0] in tensors}
    classes = _classes(tensors, naming, kind)
    shapes = dict(named_leaves(abstract_params(config, classes)))
    kept = (present | kind.parts) - set(without)
    entries = [entry for entry in entries if _part(entry.path) in kept]
    _check_names(tensors, naming, architecture, entries, config, source)
    flat = {}
    for entry in entries:
        stacked = "{}" in getattr(entry, naming)
        shape = shapes[entry.path].shape[1 if stacked else 0 :]
        arrays = [
            _import_array(tensors[name], entry, naming, shape, name, source)
            for name in _names(entry, naming, config)
        ]
        flat[entry.path] = np.stack(arrays) if stacked else arrays[0]
    return _nested(flat)


def _check_names(
    tensors: Mapping[str, np.ndarray],
    naming: Naming,
    architecture: str,
    entries: Sequence[Entry],
    config: ModelConfig,
    source: str,
) -> None:
    names = [name for entry in entries for name in _names(entry, naming, config)]
    if missing := [name for name in names if name not in tensors]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInputError(
            f"{source}: no tensor {missing[0]}{more}, which {architecture} needs; check the"
            " architecture and the number of layers in the config"
        )
    next_layer = [getattr(entry, naming).format(config.layers) for entry in entries]
    if extra := [name for name in next_layer if name in tensors and name not in names]:
        raise BadInputError(
            f"{source}: has tensor {extra[0]}, but the config has {config.layers} layers; correct"
            " the number of layers in the config"
        )


def to_hugging_face(params: Params, architecture: str) -> dict[str, np.ndarray]:
    """Convert parameters to the tensors that ``transformers`` has for the architecture.

    Raises:
        BadInputError: `params` lacks a part that the architecture needs.
    """
    if lacking := ARCHITECTURES[architecture].parts - parts(params):
        raise BadInputError(
            f"{architecture} needs {', '.join(sorted(lacking))}, which the model lacks; choose"
            " another architecture"
        )
    leaves = dict(named_leaves(params))
    tensors = {}
    for path, names, entry in _exports(params, architecture):
        array = np.asarray(leaves[path])
        layers = array if "{}" in entry.hugging_face else [array]
        for name, layer in zip(names, layers, strict=True):
            tensors[name] = _export_array(layer, entry, "hugging_face")
    return tensors


def _exports(params: Params, architecture: str) -> Iterator[tuple[str, list[str], Entry]]:
    """Yield path, names in Hugging Face, and entry of every parameter that exists."""
    leaves = dict(named_leaves(params))
    for entry in _entries(ARCHITECTURES[architecture]):
        if entry.path not in leaves:
            continue
        count = len(leaves[entry.path]) if "{}" in entry.hugging_face else 1
        names = [entry.hugging_face.format(number) for number in range(count)]
        # The names of a bare encoder have no prefix.
        bare = architecture == "BertModel"
        yield entry.path, [n.removeprefix("bert.") if bare else n for n in names], entry


def _names(entry: Entry, naming: Naming, config: ModelConfig) -> list[str]:
    name = getattr(entry, naming)
    return [name.format(layer) for layer in range(config.layers)] if "{}" in name else [name]


def _classes(tensors: Mapping[str, np.ndarray], naming: Naming, kind: Architecture) -> int:
    if HEAD not in kind.parts:
        return 0
    bias = f"{kind.head}.bias" if naming == "hugging_face" else f"{kind.google_research}_bias"
    return int(tensors[bias].size) if bias in tensors else 1


def _import_array(
    array: np.ndarray, entry: Entry, naming: Naming, shape: Sequence[int], name: str, source: str
) -> np.ndarray:
    transposed = naming in entry.transposed
    expected = _matrix_shape(entry, shape)[:: -1 if transposed else 1]
    if array.shape != expected:
        raise BadInputError(
            f"{source}: tensor {name} has shape {list(array.shape)}, but the config needs"
            f" {list(expected)}; correct the sizes in the config"
        )
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise BadInputError(
            f"{source}: tensor {name} has type {array.dtype}; convert it to float32"
        )
    array = array.astype(np.float32)
    return np.ascontiguousarray(array.T if transposed else array).reshape(shape)


def _export_array(array: np.ndarray, entry: Entry, naming: Naming) -> np.ndarray:
    matrix = array.reshape(_matrix_shape(entry, array.shape))
    return np.ascontiguousarray(matrix.T if naming in entry.transposed else matrix)


def _matrix_shape(entry: Entry, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape without an axis for the heads: [in, out] of a kernel, [out] of a bias."""
    size = math.prod(shape)
    if entry.path.endswith("/bias"):
        return (size,)
    if not entry.path.endswith("/kernel"):
        return tuple(shape)
    # Kernels of query, key and value are [D, N, H], of the output [N, H, D].
    inputs = size // shape[-1] if entry.path.endswith("output/kernel") else shape[0]
    return (inputs, size // inputs)


def _nested(flat: Mapping[str, Any]) -> Params:
    tree: Params = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def canonical(name: str) -> str:
    """Return a Hugging Face name in its current form; older: gamma, beta, without ``bert.``."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


@dataclass(frozen=True)
class ModelWeights:
    """Parameters and the description of their network.

    Attributes:
        params: float32, without the parts that the file lacks.
        config: The network.
        architecture: One of ARCHITECTURES.
        labels: Names of the classes of a task head.
        problem_type: Hugging Face's ``problem_type``; empty = derived from the number of classes.
        text_columns: Columns of text and pair in the training data of a task; empty if unknown.
        thresholds: Probability from which each class is predicted; empty = those of the task.
        unusable: Part -> why its tensors in the file are not in `params`, and the remedy.
    """

    params: Params
    config: ModelConfig
    architecture: str
    labels: tuple[str, ...] = ()
    problem_type: str = ""
    thresholds: tuple[float, ...] = ()
    text_columns: tuple[str, ...] = ()
    unusable: Mapping[str, str] = field(default_factory=dict)

    def require_usable(self, part: str) -> None:
        """Refuse a model whose tensors of a part cannot be used.

        Raises:
            BadInputError: The reason in `unusable`.
        """
        if part in self.unusable:
            raise BadInputError(self.unusable[part])


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a tree with names such as ``bert/pooler/bias``."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in named]
