"""The same network under other names: what Hugging Face and google-research/bert call its tensors.

One table says where every tensor stands. Outside, an affine map is a matrix ([out, in] in Hugging
Face, [in, out] in google-research/bert) and each layer has tensors of its own; here attention
kernels have an axis for the heads, and all layers are stacked. Values are never computed with, so
that the way there and back changes no bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from bert_jax.config.run import ModelConfig
from bert_jax.nn.encoder import Params, init_params
from bert_jax.runtime.errors import BadInputError

Naming = Literal["hugging_face", "google_research"]

ENCODER, POOLER, MLM, NSP, HEAD = "encoder", "pooler", "mlm", "nsp", "head"


@dataclass(frozen=True)
class Architecture:
    """What stands on the encoder.

    Attributes:
        parts: Of ENCODER, POOLER, MLM, NSP, HEAD, those that it must have.
        head: Hugging Face's name of the task head.
        google_research: google-research/bert's name of it.
    """

    parts: frozenset[str]
    head: str = ""
    google_research: str = ""


def _architecture(*parts: str, head: str = "", google_research: str = "") -> Architecture:
    return Architecture(frozenset({ENCODER, *parts}), head, google_research)


# By Hugging Face's name, which is how models are known.
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
    """One tensor, or one of every layer ({} is then its number).

    Attributes:
        path: In our tree.
        hugging_face: Name there.
        google_research: Name there.
        flipped: In which of the two a matrix is [out, in].
    """

    path: str
    hugging_face: str
    google_research: str
    flipped: tuple[Naming, ...] = ()


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
_ROWS: tuple[Naming, ...] = ("hugging_face",)
_BOTH: tuple[Naming, ...] = ("hugging_face", "google_research")


def _slashes(name: str) -> str:
    return name.replace("layer.{}", "layer_{}").replace(".", "/")


def _entries(architecture: Architecture) -> list[Entry]:
    entries = []
    for path, name in _TABLES.items():
        entries.append(Entry(path, f"{name}.weight", _slashes(name)))
    for path, name in _MAPS.items():
        theirs = _slashes(name)
        entries.append(Entry(f"{path}/kernel", f"{name}.weight", f"{theirs}/kernel", _ROWS))
        entries.append(Entry(f"{path}/bias", f"{name}.bias", f"{theirs}/bias"))
    for path, name in _NORMS.items():
        theirs = _slashes(name)
        entries.append(Entry(f"{path}/scale", f"{name}.weight", f"{theirs}/gamma"))
        entries.append(Entry(f"{path}/bias", f"{name}.bias", f"{theirs}/beta"))
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
        name, theirs = architecture.head, architecture.google_research
        entries.append(Entry("head/kernel", f"{name}.weight", f"{theirs}_weights", _BOTH))
        entries.append(Entry("head/bias", f"{name}.bias", f"{theirs}_bias"))
    return entries


def parts(params: Params) -> frozenset[str]:
    """Which of ENCODER, POOLER, MLM, NSP, HEAD the tree has."""
    return frozenset(_part(path) for path, _ in named_leaves(params))


def _part(path: str) -> str:
    first, _, rest = path.partition("/")
    if first != "bert":
        return first
    return POOLER if rest.startswith("pooler/") else ENCODER


def abstract_params(config: ModelConfig, classes: int = 0) -> Params:
    """Shapes and dtypes of a whole tree, with a task head if there are `classes`."""
    tree = jax.eval_shape(partial(init_params, config, 0))
    if classes:
        shapes = {"kernel": (config.hidden_size, classes), "bias": (classes,)}
        tree["head"] = {
            name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()
        }
    return tree


def only(tree: Params, keep: frozenset[str]) -> Params:
    """The tree without the parts that are not in `keep`."""
    return _nested({path: leaf for path, leaf in named_leaves(tree) if _part(path) in keep})


def from_tensors(
    tensors: Mapping[str, np.ndarray],
    naming: Naming,
    architecture: str,
    config: ModelConfig,
    source: str,
) -> Params:
    """The parameters in `tensors`.

    A part that the architecture does not ask for is taken as well if it is there.

    Args:
        tensors: By the names of `naming`, of any floating type.
        naming: Whose names these are.
        architecture: One of ARCHITECTURES.
        config: The network.
        source: For messages: the file.

    Returns:
        A tree of float32 NumPy arrays.

    Raises:
        BadInputError: A tensor is missing, or has another shape or type than the config says.
    """
    kind = ARCHITECTURES[architecture]
    entries = _entries(kind)
    there = {_part(e.path) for e in entries if _names(e, naming, config)[0] in tensors}
    classes = _classes(tensors, naming, kind)
    shapes = dict(named_leaves(abstract_params(config, classes)))
    wanted = there | kind.parts
    entries = [entry for entry in entries if _part(entry.path) in wanted]
    _check_names(tensors, naming, architecture, entries, config, source)
    flat = {}
    for entry in entries:
        ours = shapes[entry.path].shape
        stacked = "{}" in getattr(entry, naming)
        each = [
            _inward(tensors[name], entry, naming, ours[1:] if stacked else ours, name, source)
            for name in _names(entry, naming, config)
        ]
        flat[entry.path] = np.stack(each) if stacked else each[0]
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
        raise BadInputError(f"{source}: no tensor {missing[0]}{more}, which {architecture} needs")
    after = [getattr(entry, naming).format(config.layers) for entry in entries]
    if beyond := [name for name in after if name in tensors and name not in names]:
        raise BadInputError(
            f"{source}: tensor {beyond[0]}, but the config has {config.layers} layers"
        )


def to_hugging_face(params: Params, architecture: str) -> dict[str, np.ndarray]:
    """The tensors that ``transformers`` keeps for the architecture, by its names.

    Raises:
        BadInputError: `params` lacks a part that the architecture needs.
    """
    if lacking := ARCHITECTURES[architecture].parts - parts(params):
        raise BadInputError(f"{architecture} needs {', '.join(sorted(lacking))}, not there")
    leaves = dict(named_leaves(params))
    found = {}
    for path, names, entry in _placed(params, architecture):
        array = np.asarray(leaves[path])
        each = array if "{}" in entry.hugging_face else [array]
        for name, one in zip(names, each, strict=True):
            found[name] = _outward(one, entry, "hugging_face")
    return found


def names_used(params: Params, architecture: str) -> set[str]:
    """The names of what `to_hugging_face` gives."""
    return {name for _, names, _ in _placed(params, architecture) for name in names}


def _placed(params: Params, architecture: str) -> Iterator[tuple[str, list[str], Entry]]:
    """What is there: path in our tree, the names outside, and how they belong together."""
    leaves = dict(named_leaves(params))
    for entry in _entries(ARCHITECTURES[architecture]):
        if entry.path not in leaves:
            continue
        count = len(leaves[entry.path]) if "{}" in entry.hugging_face else 1
        names = [entry.hugging_face.format(number) for number in range(count)]
        # The bare encoder has no module around it.
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


def _inward(
    array: np.ndarray, entry: Entry, naming: Naming, ours: Sequence[int], name: str, source: str
) -> np.ndarray:
    flipped = naming in entry.flipped
    expected = _plain_shape(entry, ours)[:: -1 if flipped else 1]
    if array.shape != expected:
        raise BadInputError(
            f"{source}: tensor {name} has shape {list(array.shape)}, the config asks for"
            f" {list(expected)}"
        )
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise BadInputError(f"{source}: tensor {name} has type {array.dtype}, not a floating one")
    array = array.astype(np.float32)
    return np.ascontiguousarray(array.T if flipped else array).reshape(ours)


def _outward(array: np.ndarray, entry: Entry, naming: Naming) -> np.ndarray:
    plain = array.reshape(_plain_shape(entry, array.shape))
    return np.ascontiguousarray(plain.T if naming in entry.flipped else plain)


def _plain_shape(entry: Entry, ours: Sequence[int]) -> tuple[int, ...]:
    """Without an axis for the heads: [in, out] of a kernel, [out] of a bias."""
    size = math.prod(ours)
    if entry.path.endswith("/bias"):
        return (size,)
    if not entry.path.endswith("/kernel"):
        return tuple(ours)
    # D, N, H leads into the heads, N, H, D out of them.
    inputs = size // ours[-1] if entry.path.endswith("output/kernel") else ours[0]
    return (inputs, size // inputs)


def _nested(flat: Mapping[str, Any]) -> Params:
    tree: Params = {}
    for path, leaf in flat.items():
        *above, last = path.split("/")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def canonical(name: str) -> str:
    """A Hugging Face name as it is written today: older files say gamma, beta, and no ``bert.``."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


@dataclass(frozen=True)
class ModelWeights:
    """Weights with what is needed to use them.

    Attributes:
        params: Float32; without the parts that the file lacks.
        config: The network.
        architecture: One of ARCHITECTURES.
        labels: Names of the classes of a task head.
        problem_type: Hugging Face's word for what the classes are; empty = as their number says.
    """

    params: Params
    config: ModelConfig
    architecture: str
    labels: tuple[str, ...] = ()
    problem_type: str = ""


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with names such as ``bert/pooler/bias``."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in named]
