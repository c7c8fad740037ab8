"""``bert-jax convert``: a model in the format of Hugging Face, or in our own."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import jax

from bert_jax.config.run import as_dict
from bert_jax.nn.tensor_names import ARCHITECTURES, ENCODER, MLM, ModelWeights, only, parts
from bert_jax.runtime import distributed
from bert_jax.runtime.console import summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UserError
from bert_jax.runtime.paths import at
from bert_jax.training.checkpoint import Meta, save_params
from bert_jax.training.checksums import digest
from bert_jax.training.partitioner import Partitioner
from pipelines.data.tokenizers.export import export
from pipelines.folders import RUN_TOKENIZER, own
from pipelines.models.formats import hugging_face
from pipelines.models.model_card import model_card
from pipelines.models.open import MODEL_HELP, LoadedModel, open_model
from pipelines.settings import command_parser, parse


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    parser = command_parser("convert", "Writes a model in another format; no bit of it changes.")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("out", metavar="OUT", help="folder to write, new or empty")
    parser.add_argument(
        "--to",
        type=Literal["hf", "bert-jax"],
        required=True,
        help="hf: what transformers opens; bert-jax: a checkpoint to use or to --init from",
    )
    options = parse(parser, argv)
    distributed.devices()
    model = open_model(at(options.model), Partitioner(jax.local_devices()[:1]))
    convert(model, Path(options.out), options.to)


def convert(model: LoadedModel, out: Path, to: Literal["hf", "bert-jax"]) -> None:
    """Writes `model` to the folder `out`; after a failure nothing is there.

    Args:
        model: See `pipelines.models.open.open_model`.
        out: A folder that is not there, or empty.
        to: "hf" for what transformers opens, "bert-jax" for a checkpoint of ours.

    Returns:
        Nothing. Tensors are written as float32, without a changed bit of those that are.

    Raises:
        BadArgumentsError: `out` names no folder.
        BadInputError: `out` holds something, or the format has no such network.
        UserError: The disk has too little room.

    Source: names and shapes are those of transformers' BERT models.
    """
    started = time.monotonic()
    if out.is_dir() and (held := sorted(path.name for path in out.iterdir())):
        raise BadInputError(f"OUT {out} is not empty ({held[0]}, …); remove it or choose another")
    own(out, "OUT", ())
    if to == "hf" or model.finetune is None:
        model = replace(model, weights=_trained(model))
    if out.is_symlink() or not out.name:
        raise BadArgumentsError(f"OUT {out} must be a folder of its own")
    out.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(model.weights.params))
    free = shutil.disk_usage(out.parent).free
    if free < 1.02 * needed + (1 << 20):  # the tokenizer and what a file system adds
        raise UserError(f"OUT {out}: {needed:,} bytes are needed, {free:,} are free on the disk")
    draft = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    try:
        draft.chmod(0o755)  # not the private folder that mkdtemp makes
        _to_hugging_face(model, draft) if to == "hf" else _to_bert_jax(model, draft)
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
        opened_by=f"transformers.AutoModel.from_pretrained({str(out)!r})" if to == "hf" else "",
    )


def _trained(model: LoadedModel) -> ModelWeights:
    """The weights without the heads that the run never trained."""
    weights = model.weights
    if model.finetune is not None:
        if not weights.architecture:
            raise BadInputError(
                f"{model.path} has a head that Hugging Face's BERT has not ({model.finetune.task},"
                f" {model.finetune.head.kind}, features {model.finetune.head.features})"
            )
        # A head on tokens leaves the pooler as it was or fresh.
        needed = ARCHITECTURES[weights.architecture].parts
        return replace(weights, params=only(weights.params, needed))
    if model.run is None or model.run.data.objective != "mlm":
        return weights
    kept = only(weights.params, frozenset({ENCODER, MLM}))
    return replace(weights, params=kept, architecture="BertForMaskedLM")


def _to_hugging_face(model: LoadedModel, folder: Path) -> None:
    if model.network.encoder != "transformer":
        raise BadInputError(
            f"{model.path} has model.encoder {model.network.encoder}; Hugging Face's BERT has only"
            " transformers that look both ways"
        )
    tokenizer = model.tokenizer()
    hugging_face.write(folder, model.weights, tokenizer.pad_id)
    export(tokenizer, folder, model.network.max_positions)
    (folder / "README.md").write_text(model_card(model), "utf-8")


def _to_bert_jax(model: LoadedModel, folder: Path) -> None:
    tokenizer, weights = model.tokenizer(), model.weights
    meta = Meta(
        step=model.step or 0,
        # What a task head is, and how its rows were made, stands in the config of its training.
        config=as_dict(model.finetune) if model.finetune else {"model": asdict(model.network)},
        data={"tokenizer": tokenizer.digest},
        architecture=weights.architecture,
        labels=list(weights.labels),
        problem_type=weights.problem_type,
        parts=sorted(parts(weights.params)),
    )
    save_params(folder, weights.params, meta)
    tokenizer.save(folder / RUN_TOKENIZER)
