"""Opens a MODEL: what every command that uses a trained network takes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import jax

from bert_jax.config.renamed import renamed_model_keys
from bert_jax.config.run import ModelConfig, RunConfig
from bert_jax.nn.encoder import Params, init_params
from bert_jax.nn.tensor_names import (
    ARCHITECTURES,
    HEAD,
    MLM,
    NSP,
    POOLER,
    ModelWeights,
    abstract_params,
    only,
    parts,
)
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import absolute, is_remote
from bert_jax.training.checkpoint import FOLDER, Meta, newest_params
from bert_jax.training.partitioner import Partitioner
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.folders import absent
from pipelines.models.formats import google_research, hugging_face
from pipelines.settings import config_from_dict
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import task_network

# Embeddings are made larger than the vocabulary to a multiple of at most this.
_ROUNDING = 1024

MODEL_HELP = (
    "run folder or RUN/checkpoints/STEP, Hugging Face folder, or folder of google-research/bert"
)


@dataclass(frozen=True)
class LoadedModel:
    """A trained network with what belongs to it.

    Attributes:
        path: As given.
        weights: Parameters on every device of the layout, network, architecture, labels.
        step: Updates done; None where nobody wrote it down.
        run: The pre-training that made it; None for weights from elsewhere.
        finetune: The fine-tuning that made it.
        folder: Of run and tokenizer.
        digests: That store and tokenizer had.
    """

    path: Path
    weights: ModelWeights
    step: int | None
    run: RunConfig | None
    folder: Path
    digests: dict[str, str]
    finetune: FinetuneConfig | None = None

    @property
    def network(self) -> ModelConfig:
        """Of the weights."""
        return self.weights.config

    def tokenizer(self) -> Tokenizer:
        """The model's own.

        Raises:
            BadInputError: It is absent, or not the one that the model was trained with.
        """
        tokenizer = tokenizers.load(self.folder)
        if self.digests.get("tokenizer", tokenizer.digest) != tokenizer.digest:
            raise BadInputError(f"the tokenizer in {self.folder} is not the one of this model")
        if tokenizer.vocab_size > self.network.vocab_size:
            raise BadInputError(
                f"the vocabulary in {self.folder} has {tokenizer.vocab_size:,} tokens, the token"
                f" embedding of the model has only {self.network.vocab_size:,} rows; they do not"
                " belong together"
            )
        spare = self.network.vocab_size - tokenizer.vocab_size
        if not self.digests and spare >= _ROUNDING:
            raise BadInputError(
                f"the vocabulary in {self.folder} has {tokenizer.vocab_size:,} tokens, the token"
                f" embedding of the model {self.network.vocab_size:,} rows, more than rounding"
                " explains; they do not belong together"
            )
        return tokenizer

    @property
    def described(self) -> str:
        """Where it is, what it is, and how far it was trained."""
        step = "" if self.step is None else f" at step {self.step:,}"
        return f"{self.path} ({self.weights.architecture}{step})"

    def require_masked_language_head(self) -> None:
        """Refuses to go on without one.

        Raises:
            BadInputError: It is not there.
        """
        if MLM not in parts(self.weights.params):
            raise BadInputError(
                f"{self.path} is a {self.weights.architecture} without the head that predicts"
                " masked tokens; train one with bert-jax pretrain --init"
            )

    def pretraining_params(self, partitioner: Partitioner) -> Params:
        """Parameters of the whole pre-training network; parts that are not there are fresh.

        Args:
            partitioner: That the model was opened with.
        """
        return completed(self.weights.params, self.network, 0, partitioner)


def completed(params: Params, config: ModelConfig, seed: int, partitioner: Partitioner) -> Params:
    """The parameters of pre-training: those that are there, and fresh ones for missing parts."""
    lacking = frozenset({POOLER, MLM, NSP}) - parts(params)
    kept = {name: tree for name, tree in params.items() if name != HEAD}
    if not lacking:
        return kept
    fresh = partitioner.build(lambda: only(init_params(config, seed), lacking))
    bert = kept["bert"] | fresh.pop("bert", {})
    return kept | fresh | {"bert": bert}


def open_model(path: Path, partitioner: Partitioner) -> LoadedModel:
    """The model in `path`; see MODEL_HELP.

    Raises:
        BadInputError: There is none, or it is damaged.
    """
    if hugging_face.is_folder(path) or google_research.is_folder(path):
        if is_remote(path):
            raise BadInputError(
                f"{path}: only runs are read from a bucket; copy this model to a disk, as with:"
                f" gcloud storage cp -r {path} DIR"
            )
        theirs = google_research.is_folder(path) and not hugging_face.has_weights(path)
        found = (google_research if theirs else hugging_face).read(path)
        placed = jax.device_put(found.params, partitioner.replicated)
        return LoadedModel(path, replace(found, params=placed), None, None, path, {})
    folder, wanted = run_and_step(path)
    if not (folder / FOLDER).is_dir():
        if not path.exists():
            raise absent(
                path,
                "give the folder of a run or model; one of a hub has to be downloaded first, as"
                " with: hf download NAME --local-dir DIR",
            )
        raise BadInputError(
            f"{path} is no MODEL: it has neither {FOLDER}/ (a run), {hugging_face.CONFIG} (Hugging"
            f" Face) nor {google_research.CONFIG} (google-research/bert)"
        )
    params, meta = newest_params(
        folder, lambda meta: partitioner.abstract(_abstract(meta, path)), wanted
    )
    run = tuned = None
    if "task" in meta.config:
        tuned = config_from_dict(meta.config, str(path), FinetuneConfig)
    elif "phases" in meta.config:
        run = config_from_dict(meta.config, str(path), RunConfig)
    network, labels = network_of(meta, path), tuple(meta.labels)
    weights = ModelWeights(params, network, meta.architecture, labels, meta.problem_type)
    # Converted weights of unknown age are kept as step 0.
    step = meta.step if run or tuned else meta.step or None
    return LoadedModel(path, weights, step, run, folder, meta.data, tuned)


def run_and_step(path: Path) -> tuple[Path, int | None]:
    """The run folder and the step that `path` names; None is the newest."""
    whole = absolute(path)  # "." inside of one
    if whole.parent.name == FOLDER and whole.name.isdigit():
        return whole.parent.parent, int(whole.name)
    return path, None


def network_of(meta: Meta, path: Path) -> ModelConfig:
    """The network that a checkpoint in `path` was saved with.

    Raises:
        BadInputError: It is described by keys of another version.
    """
    # What a task of our own was fine-tuned to has no name of Hugging Face's.
    if "task" not in meta.config and meta.architecture not in ARCHITECTURES:
        raise BadInputError(f"{path} holds a {meta.architecture!r:.40}, which is not known here")
    given = meta.config.get("model")
    if not isinstance(given, dict):
        raise BadInputError(f"{path} does not say what its network is; restore it from a copy")
    known = {field.name for field in fields(ModelConfig)}
    if unknown := sorted(set(renamed_model_keys(given)) - known):
        raise BadInputError(
            f"{path} was written by another version of bert-jax: it has model.{unknown[0]}"
        )
    return config_from_dict(given, str(path), ModelConfig).resolved()


def _abstract(meta: Meta, path: Path) -> Params:
    if "task" in meta.config:
        tuned = config_from_dict(meta.config, str(path), FinetuneConfig)
        network = task_network(tuned, len(meta.labels))
        return jax.eval_shape(partial(network.init_params, 0))
    tree = abstract_params(network_of(meta, path), len(meta.labels))
    return only(tree, frozenset(meta.parts or ARCHITECTURES[meta.architecture].parts))
