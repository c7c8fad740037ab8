"""The README.md of an exported model: network, recipe, data and evaluation."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from bert_jax import __version__
from bert_jax.config.run import RunConfig, as_dict
from bert_jax.nn.tensor_names import MLM
from bert_jax.training import metrics
from bert_jax.training.checksums import digest
from bert_jax.training.state import parameter_count
from pipelines.data.batches import held_out
from pipelines.data.hub.repository import is_hub_name, repository
from pipelines.data.store.card import escaped
from pipelines.folders import DATA_CARD
from pipelines.models.formats.hugging_face import THRESHOLDS
from pipelines.models.open import LoadedModel
from pipelines.tasks.config import FinetuneConfig


def model_card(model: LoadedModel, name: str = "", *, is_sentence: bool = False) -> str:
    """Return Markdown, with the header for Hugging Face's hub.

    Args:
        model: The model.
        name: ORG/NAME on the hub; empty = that of its folder.
        is_sentence: Whether it is in the format of sentence-transformers.
    """
    weights, network = model.weights, model.network
    header: dict[str, Any] = {"library_name": "transformers", "tags": ["bert", "bert-jax"]}
    if is_sentence:
        header["library_name"] = "sentence-transformers"
        header["pipeline_tag"] = "sentence-similarity"
    if base := _hub_name(model):
        header["base_model"] = base
    if MLM in weights.params and weights.architecture in ("BertForPreTraining", "BertForMaskedLM"):
        header["pipeline_tag"] = "fill-mask"
    step = "" if model.step is None else f" after {model.step:,} updates"
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=True)}---",
        f"# {escaped(name or _title(model))}",
        f"{weights.architecture}{step}: {network.layers} layers, hidden size {network.hidden_size},"
        f" {network.heads} attention heads, {network.vocab_size:,} tokens, sequences up to"
        f" {network.max_positions}; {parameter_count(weights.params):,} parameters. Written by"
        f" bert-jax {__version__}.",
        _usage(weights.architecture, name or "DIR", is_sentence),
    ]
    if weights.labels:
        sections.append(f"Classes: {', '.join(map(escaped, weights.labels))}.")
    if weights.thresholds:
        pairs = zip(map(escaped, weights.labels), weights.thresholds, strict=True)
        listed = ", ".join(f"{name} {threshold:.4f}" for name, threshold in pairs)
        sections.append(
            "Each label has a probability of its own (a sigmoid). Thresholds with the largest F1 on"
            f" the validation data, also in config.json as {THRESHOLDS}: {listed}."
        )
    config = model.run or model.finetune
    if config is None:
        sections.append("The recipe of the training was not saved with these weights.")
    else:
        if model.run is not None and model.run.data.objective == "sop":
            sections.append(
                "The next sentence head was trained to detect whether the two segments are swapped."
            )
        data = "Held-out" if model.finetune is None else "Validation"
        sections += [
            *results(model.folder, model.step or 0, data),
            "## Recipe",
            _fenced(_recipe(config)),
        ]
        sections += _data(model.folder / DATA_CARD)
    sections.append(f"SHA-256 of the parameters in bert-jax: {digest(weights.params)}")
    return "\n\n".join(sections) + "\n"


def _title(model: LoadedModel) -> str:
    # The folder of a model of the hub has the name of its commit.
    return str(model.path) if is_hub_name(model.path) else model.folder.resolve().name


def _hub_name(model: LoadedModel) -> str:
    """Return the name of the hub's model that this one was made from; empty if there is none."""
    config = model.run or model.finetune
    source = config.init if config else model.path
    return repository(source).name if is_hub_name(source) else ""


def _usage(architecture: str, name: str, is_sentence: bool) -> str:
    if is_sentence:
        code = (
            "from sentence_transformers import SentenceTransformer\n\n"
            f'model = SentenceTransformer("{name}")\nvectors = model.encode(["A text."])'
        )
    else:
        code = (
            f"from transformers import AutoTokenizer, {architecture}\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
            f'model = {architecture}.from_pretrained("{name}")'
        )
    return f"```python\n{code}\n```"


def _recipe(run: RunConfig | FinetuneConfig) -> str:
    """Return the config as YAML, without the paths of the machine."""
    values = as_dict(run)
    del values["run_dir"]
    values["data"].pop("store", None)
    for entry in values["data"].get("stores", ()):
        entry["path"] = Path(entry["path"]).name
    values["init"] = run.init if is_hub_name(run.init) else Path(run.init).name
    for name in values["data"].keys() & {"train", "validation"}:
        source = values["data"][name]
        values["data"][name] = source if is_hub_name(source) else Path(source).name
    return yaml.safe_dump(values, sort_keys=False)


def results(run_dir: Path, step: int, data: str = "Held-out") -> list[str]:
    """Return the last evaluation of a run up to a step, on `data`, as Markdown."""
    lines = [line for line in metrics.read(run_dir) if metrics.is_evaluation(line)]
    newest: dict[str, Any] = next((line for line in reversed(lines) if line["step"] <= step), {})
    rows = [
        f"| {name.removeprefix('eval_')} | {value:.4f} |"
        for name, value in newest.items()
        if re.fullmatch(r"eval_[\w@]+(/[\w.-]+)?", name, re.ASCII)
        if isinstance(value, float) and math.isfinite(value)
    ]
    if not rows:
        return []
    length = newest.get("eval_length")  # of pre-training; absent in runs of older versions
    return [
        f"## {data} results at step {newest['step']:,}",
        "\n".join(["| | |\n|---|---:|", *rows]),
        *([f"Measured on {held_out.described([length])}."] if type(length) is int else []),
    ]


def _data(card: Path) -> list[str]:
    if not card.is_file():
        return []
    # The cards of a mixture follow each other.
    cards = re.split(r"^(?=# )", card.read_bytes().decode("utf-8", "replace"), flags=re.MULTILINE)
    texts = [part.partition("\n## ")[0].removeprefix("# ").strip() for part in cards]
    text = "\n\n".join(filter(None, texts))
    # The card came with the store: escape HTML, links and images in it.
    plain = re.sub(r"(\\.)|([<\[])", lambda match: match[1] or f"\\{match[2]}", text)
    return ["## Data", plain]


def _fenced(text: str) -> str:
    """Return YAML as a code block with a fence that does not occur in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"
