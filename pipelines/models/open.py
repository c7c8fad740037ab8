"""Open a MODEL, the argument of every command that uses a trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from bert_jax.config.model import ModelConfig
from bert_jax.config.renamed_keys import renamed_model_keys
from bert_jax.config.run import RunConfig
from bert_jax.nn.encoder import Params, init_params, param_shapes
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
from bert_jax.runtime import distributed
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import absolute, at, is_remote
from bert_jax.training.metadata import FOLDER, Meta
from bert_jax.training.partitioner import Partitioner
from pipelines.data.hub.models import model_folder
from pipelines.data.hub.repository import is_hub_name, repository
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.folders import absent
from pipelines.models.formats import google_research, hugging_face
from pipelines.models.formats.other_weights import remedy
from pipelines.settings import config_from_dict
from pipelines.tasks import thresholds
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.experiment import task_network

# Largest multiple to which others round the number of embeddings up.
_ROUNDING = 1024

Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
DTYPE_HELP = "dtype of matrix multiplications (default: that of the model)"
MODEL_HELP = (
    "run folder, RUN/checkpoints/STEP, hf:ORG/NAME[@REVISION] on the Hugging Face hub, or folder"
    " from there or from google-research/bert"
)


@dataclass(frozen=True)
class LoadedModel:
    """A trained network with its tokenizer and its origin.

    Attributes:
        path: The argument of `open_model`.
        partitioner: The devices.
        weights: Parameters on every device, network, architecture, labels.
        step: Updates; None if unknown.
        run: Config of the pre-training; None for weights from elsewhere.
        finetune: Config of the fine-tuning.
        folder: Of run and tokenizer.
        digests: Of store and tokenizer in training.
    """

    path: Path
    partitioner: Partitioner
    weights: ModelWeights
    step: int | None
    run: RunConfig | None
    folder: Path
    digests: dict[str, str]
    finetune: FinetuneConfig | None = None

    @property
    def network(self) -> ModelConfig:
        """The config of the network."""
        return self.weights.config

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer of the model.

        Raises:
            BadInputError: It is missing, or the model was trained with another.
        """
        tokenizer = tokenizers.load(self.folder)
        if self.digests.get("tokenizer", tokenizer.digest) != tokenizer.digest:
            raise BadInputError(
                f"the model was trained with another tokenizer than that in {self.folder}; restore"
                " the original"
            )
        spare = self.network.vocab_size - tokenizer.vocab_size
        if spare < 0 or (not self.digests and spare >= _ROUNDING):
            raise BadInputError(
                f"the vocabulary in {self.folder} has {tokenizer.vocab_size:,} tokens, but the"
                f" model has {self.network.vocab_size:,} token embeddings; copy the vocabulary of"
                " this model there"
            )
        return tokenizer

    @property
    def described(self) -> str:
        """The path, the architecture and the step."""
        step = "" if self.step is None else f" at step {self.step:,}"
        return f"{self.path} ({self.weights.architecture}{step})"

    def computing_in(self, dtype: Dtype | Literal[""]) -> LoadedModel:
        """Return the model with matrix multiplications in `dtype`; empty = as it is stored."""
        if not dtype:
            return self
        config = replace(self.network, dtype=dtype)
        return replace(self, weights=replace(self.weights, config=config))

    def require_masked_language_head(self) -> None:
        """Refuse a model without a masked language modeling head.

        Raises:
            BadInputError: The head is missing.
        """
        self.weights.require_usable(MLM)
        if MLM not in parts(self.weights.params):
            raise BadInputError(
                f"{self.path} is a {self.weights.architecture} without a masked language modeling"
                f" head; train one with bert-jax pretrain --init {self.path}"
            )

    def pretraining_params(self) -> Params:
        """Return parameters for the whole pre-training network; missing parts have zeros."""
        return self._with(
            lambda missing: jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=self.partitioner.replicated),
                only(param_shapes(self.network), missing),
            )
        )

    def initialized_params(self, network: ModelConfig, seed: int) -> Params:
        """Return parameters for the whole pre-training network.

        Args:
            network: Config that initializes missing parts.
            seed: Of these.
        """
        return self._with(
            lambda missing: self.partitioner.build(
                lambda: only(init_params(network, seed), missing)
            )
        )

    def _with(self, make: Callable[[frozenset[str]], Params]) -> Params:
        """Return the parameters without a task head, with missing parts from `make`."""
        params = self.weights.params
        missing = frozenset({POOLER, MLM, NSP}) - parts(params)
        kept = {name: tree for name, tree in params.items() if name != HEAD}
        if not missing:
            return kept
        new = make(missing)
        bert = kept["bert"] | new.pop("bert", {})
        return kept | new | {"bert": bert}


def open_model(path: str | Path, partitioner: Partitioner | None = None) -> LoadedModel:
    """Open a model.

    Args:
        path: See MODEL_HELP; a text may name a bucket, or a model of the hub.
        partitioner: The devices; None = the first one of this process.

    Raises:
        BadInputError: The path contains no model, or a damaged one.
        DeviceUnavailableError: There is no device.
        UserError: The bucket or the hub cannot be reached.
    """
    path = at(path) if isinstance(path, str) else path
    if partitioner is None:
        distributed.devices()
        partitioner = Partitioner(jax.local_devices()[:1])
    if is_hub_name(path):
        model = open_model(model_folder(path), partitioner)
        return replace(model, path=Path(str(repository(path))))
    if hugging_face.is_folder(path) or google_research.is_folder(path):
        if is_remote(path):
            raise BadInputError(
                f"{path}: only runs can be read from a bucket; copy this model to a disk with:"
                f" gcloud storage cp -r {path} DIR"
            )
        is_google = google_research.is_folder(path) and not hugging_face.has_weights(path)
        weights = (google_research if is_google else hugging_face).read(path)
        params = jax.device_put(weights.params, partitioner.replicated)
        weights = replace(weights, params=params)
        return LoadedModel(path, partitioner, weights, None, None, path, {})
    folder, step = run_and_step(path)
    if not (folder / FOLDER).is_dir():
        if not path.exists():
            raise absent(
                path,
                "give the folder of a run or model, or hf:ORG/NAME for a model of the Hugging Face"
                " hub",
            )
        reason = (
            f"{path} is not a MODEL: it contains neither {FOLDER}/ (a run), {hugging_face.CONFIG}"
            f" (Hugging Face) nor {google_research.CONFIG} (google-research/bert)"
        )
        raise BadInputError(remedy(path) or reason)
    return _open_run(path, folder, step, partitioner)


def _open_run(path: Path, folder: Path, step: int | None, partitioner: Partitioner) -> LoadedModel:
    # Orbax takes 0.2 s to import; a folder of Hugging Face does not need it.
    from bert_jax.training.checkpoint import newest_params

    params, meta = newest_params(
        folder, lambda meta: partitioner.abstract(_abstract(meta, path)), step
    )
    run = tuned = None
    if "task" in meta.config:
        tuned = config_from_dict(meta.config, str(path), FinetuneConfig)
    elif "phases" in meta.config:
        run = config_from_dict(meta.config, str(path), RunConfig)
    network, labels = network_of(meta, path), tuple(meta.labels)
    tuned_thresholds = thresholds.read(folder, meta.step, labels)
    columns = tuple(meta.text_columns)
    weights = ModelWeights(
        params, network, meta.architecture, labels, meta.problem_type, tuned_thresholds, columns
    )
    # Converted weights with an unknown step are saved as step 0.
    step = meta.step if run or tuned else meta.step or None
    return LoadedModel(path, partitioner, weights, step, run, folder, meta.data, tuned)


def run_and_step(path: Path) -> tuple[Path, int | None]:
    """Return the run folder and the step of `path`; None for the newest step."""
    whole = absolute(path)  # `path` may be "." in a checkpoint
    if whole.parent.name == FOLDER and whole.name.isdigit():
        return whole.parent.parent, int(whole.name)
    return path, None


def network_of(meta: Meta, path: Path) -> ModelConfig:
    """Return the network of a checkpoint in `path`.

    Raises:
        BadInputError: Another version wrote it, with keys that this one does not have.
    """
    # Some networks that are fine-tuned here have no architecture of Hugging Face.
    if "task" not in meta.config and meta.architecture not in ARCHITECTURES:
        raise BadInputError(
            f"{path} contains an unknown architecture, {meta.architecture!r:.40}; open it with the"
            " version of bert-jax that wrote it"
        )
    values = meta.config.get("model")
    if not isinstance(values, dict):
        raise BadInputError(f"{path} has no config of its network; restore it from a copy")
    keys = {field.name for field in fields(ModelConfig)}
    if unknown := sorted(set(renamed_model_keys(values)) - keys):
        raise BadInputError(
            f"{path} has the unknown key model.{unknown[0]}: another version of bert-jax wrote it;"
            " install that version"
        )
    return config_from_dict(values, str(path), ModelConfig).resolved()


def _abstract(meta: Meta, path: Path) -> Params:
    if "task" in meta.config:
        tuned = config_from_dict(meta.config, str(path), FinetuneConfig)
        network = task_network(tuned, len(meta.labels))
        return network.param_shapes()
    tree = abstract_params(network_of(meta, path), len(meta.labels))
    return only(tree, frozenset(meta.parts or ARCHITECTURES[meta.architecture].parts))
