"""The README.md of an exported model: what it is, how it was trained, on what, how good it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from bert_jax import __version__
from bert_jax.convert import MLM
from bert_jax.fingerprints import digest
from bert_jax.metrics import FILE as METRICS
from bert_jax.state import parameter_count
from pipelines.folders import DATA_CARD
from pipelines.model import Model
from pipelines.settings import to_yaml


def model_card(model: Model) -> str:
    """Markdown, with the header that Hugging Face's hub reads."""
    weights, network = model.weights, model.network
    header: dict[str, Any] = {"library_name": "transformers", "tags": ["bert", "bert-jax"]}
    if MLM in weights.params and weights.architecture in ("BertForPreTraining", "BertForMaskedLM"):
        header["pipeline_tag"] = "fill-mask"
    step = "" if model.step is None else f" after {model.step:,} updates"
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=True)}---",
        f"# {_escaped(model.folder.resolve().name)}",
        f"{weights.architecture}{step}: {network.layers} layers, hidden size {network.hidden_size},"
        f" {network.heads} attention heads, {network.vocab_size:,} tokens, sequences up to"
        f" {network.max_positions}; {parameter_count(weights.params):,} parameters. Written by"
        f" bert-jax {__version__}.",
        "```python\nfrom transformers import AutoModelForPreTraining, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("DIR")\n'
        'model = AutoModelForPreTraining.from_pretrained("DIR")\n```',
    ]
    if weights.labels:
        sections.append(f"Classes: {', '.join(map(_escaped, weights.labels))}.")
    if model.run is None:
        sections.append("These weights were converted; how they were trained is not known here.")
    else:
        sections += [*_results(model), "## Recipe", f"```yaml\n{to_yaml(model.run)}```"]
        sections += _data(model.folder / DATA_CARD)
    sections.append(f"SHA-256 of the parameters in bert-jax: {digest(weights.params)}")
    return "\n\n".join(sections) + "\n"


def _results(model: Model) -> list[str]:
    """The last evaluation that the checkpoint has seen."""
    path = model.folder / METRICS
    if not path.is_file():
        return []
    found: dict[str, Any] = {}
    for line in path.read_text("utf-8").splitlines():
        values = _object(line)
        step = values.get("step")
        if "eval_loss" in values and isinstance(step, int) and step <= (model.step or 0):
            found = values
    rows = [
        f"| {name.removeprefix('eval_')} | {value:.4f} |"
        for name, value in found.items()
        if name.startswith("eval_") and isinstance(value, float) and math.isfinite(value)
    ]
    if not rows:
        return []
    return [
        f"## Held-out results at step {found['step']:,}",
        "\n".join(["| | |\n|---|---:|", *rows]),
    ]


def _object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError:  # the last line of a killed process
        return {}
    return values if isinstance(values, dict) else {}


def _data(card: Path) -> list[str]:
    if not card.is_file():
        return []
    text = card.read_text("utf-8").partition("\n## ")[0]
    return ["## Data", text.removeprefix("# ").strip()]


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in r"\`*_[]<>#|" else c for c in text)
