"""Write a model in the format of Hugging Face, sentence-transformers or bert-jax."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import jax

from bert_jax.config.run import as_dict
from bert_jax.nn.tensor_names import (
    ARCHITECTURES,
    ENCODER,
    MLM,
    POOLER,
    ModelWeights,
    only,
    parts,
)
from bert_jax.runtime.console import say, summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UserError
from bert_jax.training.checkpoint import save_params
from bert_jax.training.checksums import digest
from bert_jax.training.metadata import Meta
from pipelines.data.tokenizers.export import export
from pipelines.folders import RUN_TOKENIZER, own
from pipelines.models.formats import hugging_face, sentence_transformers
from pipelines.models.model_card import model_card
from pipelines.models.open import LoadedModel
from pipelines.models.states import Pooling
from pipelines.tasks import thresholds

Format = Literal["hf", "sentence-transformers", "bert-jax"]
_OPENERS = {
    "hf": "transformers.AutoModel.from_pretrained",
    "sentence-transformers": "sentence_transformers.SentenceTransformer",
}


def convert(
    model: LoadedModel, out: Path, to: Format, *, pooling: Pooling = "mean", name: str = ""
) -> None:
    """Write `model` to the folder `out`; after a failure the folder does not exist.

    Args:
        model: See `pipelines.models.open.open_model`.
        out: A new or empty folder.
        to: "hf" for a model of transformers, "sentence-transformers" for its encoder and a pooling,
            "bert-jax" for a checkpoint of bert-jax.
        pooling: Of sentence-transformers; see `pipelines.models.api.Bert.encode`.
        name: Name in the model card; empty = that of the model's folder.

    Returns:
        Nothing. Tensors are written as float32; float32 tensors keep every bit.

    Raises:
        BadArgumentsError: `out` is not a valid name of a folder.
        BadInputError: `out` is not empty, or the format has no such network.
        UserError: The disk has too little space.

    Source: names and shapes are those of transformers' BERT models.
    """
    started = time.monotonic()
    if out.is_dir() and (names := sorted(path.name for path in out.iterdir())):
        raise BadInputError(f"OUT {out} is not empty ({names[0]}, …); remove it or choose another")
    own(out, "OUT", ())
    if to == "sentence-transformers":
        model = replace(model, weights=_encoder(model))
        _report_pooling(model, pooling)
    elif to == "hf" or model.finetune is None:
        model = replace(model, weights=_trained_weights(model))
    if to != "sentence-transformers" and model.weights.architecture:
        for part in ARCHITECTURES[model.weights.architecture].parts:
            model.weights.require_usable(part)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(model.weights.params))
    _check_space(out, needed)
    draft = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    try:
        draft.chmod(0o755)  # mkdtemp creates a private folder
        if to == "bert-jax":
            _to_bert_jax(model, draft)
        else:
            _to_hugging_face(model, draft, "" if to == "hf" else pooling, name)
        if out.is_dir():
            out.rmdir()
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    architecture, size = model.weights.architecture, f"{needed / 2**20:,.1f} MiB"
    summary(
        f"{out}: {architecture}, parameters {digest(model.weights.params)[:12]}",
        started,
        ("inspect", str(out)),
        size=size,
        opened_by=f"{_OPENERS[to]}({str(out)!r})" if to in _OPENERS else "",
    )


def _trained_weights(model: LoadedModel) -> ModelWeights:
    """Return the weights without the heads that the run did not train."""
    weights = model.weights
    if model.finetune is not None:
        if not weights.architecture:
            raise BadInputError(
                f"{model.path} has a head that Hugging Face's BERT does not have"
                f" ({model.finetune.task}, {model.finetune.head.kind}, features"
                f" {model.finetune.head.features}); use --to bert-jax"
            )
        # Training a head on tokens does not change the pooler.
        needed = ARCHITECTURES[weights.architecture].parts
        return replace(weights, params=only(weights.params, needed))
    if model.run is None or model.run.data.objective != "mlm":
        return weights
    kept = only(weights.params, frozenset({ENCODER, MLM}))
    return replace(weights, params=kept, architecture="BertForMaskedLM")


def _check_space(out: Path, needed: int) -> None:
    """Create the parent of `out`; refuse a disk with too little space."""
    if out.is_symlink() or not out.name:
        raise BadArgumentsError(f"OUT {out} is a symbolic link or has no name; choose another")
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < 1.02 * needed + (1 << 20):  # for the tokenizer and the file system
        raise UserError(
            f"OUT {out} needs {needed:,} bytes, but {free:,} are free on the disk; make room"
        )


def _encoder(model: LoadedModel) -> ModelWeights:
    """Return the weights that vectors of texts need."""
    kept = only(model.weights.params, frozenset({ENCODER, POOLER}))
    return ModelWeights(kept, model.weights.config, "BertModel")


def _report_pooling(model: LoadedModel, pooling: Pooling) -> None:
    """Print what a model of sentence-transformers has and the new one has not."""
    modes, more = sentence_transformers.poolings(model.folder)
    if modes and modes != [pooling]:
        say(
            f"{model.path} has the pooling {', '.join(modes)}; writing {pooling} (--pooling selects"
            " mean, cls or max)"
        )
    if more:
        say(f"{model.path}: modules that are not written: {', '.join(more)}")


def _to_hugging_face(model: LoadedModel, folder: Path, pooling: str, name: str) -> None:
    if model.network.encoder != "transformer":
        raise BadInputError(
            f"{model.path} has model.encoder {model.network.encoder}, but Hugging Face's BERT is a"
            " bidirectional transformer; use --to bert-jax"
        )
    tokenizer = model.tokenizer()
    hugging_face.write(folder, model.weights, tokenizer.pad_id)
    has_masks = MLM in parts(model.weights.params)
    export(tokenizer, folder, model.network.max_positions, split_specials=not has_masks)
    if has_masks:
        say(
            "transformers reads the name of a special token in a text, such as [SEP], as the token,"
            " bert-jax as plain text; pass split_special_tokens=True for the same ids"
        )
    if pooling:
        network = model.network
        sentence_transformers.write(folder, pooling, network.hidden_size, network.max_positions)
    (folder / "README.md").write_text(model_card(model, name, is_sentence=bool(pooling)), "utf-8")


def _to_bert_jax(model: LoadedModel, folder: Path) -> None:
    tokenizer, weights = model.tokenizer(), model.weights
    meta = Meta(
        step=model.step or 0,
        # The config of the fine-tuning describes the task head and its rows.
        config=as_dict(model.finetune) if model.finetune else {"model": asdict(model.network)},
        data={"tokenizer": tokenizer.digest},
        architecture=weights.architecture,
        labels=list(weights.labels),
        problem_type=weights.problem_type,
        text_columns=list(weights.text_columns),
        parts=sorted(parts(weights.params)),
    )
    save_params(folder, weights.params, meta)
    if weights.thresholds:
        thresholds.write(folder, meta.step, weights.labels, weights.thresholds)
    tokenizer.save(folder / RUN_TOKENIZER)
