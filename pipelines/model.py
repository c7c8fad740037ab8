"""Opens a MODEL: what every command that uses a trained network takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bert_jax.checkpoint import FOLDER, Meta, newest_params
from bert_jax.config import RunConfig
from bert_jax.errors import BadInputError
from bert_jax.parallel import Layout
from bert_jax.state import Params, init_params
from pipelines.data import tokenizer as tokenizers
from pipelines.data.tokenizer import Tokenizer
from pipelines.pretrain import TOKENIZER
from pipelines.settings import config_from_dict


@dataclass(frozen=True)
class Model:
    """A trained network with what belongs to it.

    Attributes:
        params: On every device of the layout.
        config: Of the run that made it.
        meta: What was saved beside the parameters.
        folder: Of the run.
    """

    params: Params
    config: RunConfig
    meta: Meta
    folder: Path

    def tokenizer(self) -> Tokenizer:
        """The run's copy of its tokenizer.

        Raises:
            BadInputError: It is absent or not the one that the run was trained with.
        """
        tokenizer = tokenizers.load(self.folder / TOKENIZER)
        if tokenizer.digest != self.meta.data["tokenizer"]:
            raise BadInputError(f"{self.folder / TOKENIZER} is not the tokenizer of this run")
        return tokenizer


def open_model(path: Path, layout: Layout) -> Model:
    """The model in `path`: a run folder (its newest good checkpoint) or RUN/checkpoints/STEP.

    Raises:
        BadInputError: There is none, or it is damaged.
    """
    folder, step = path, None
    if path.parent.name == FOLDER and path.name.isdigit():
        folder, step = path.parent.parent, int(path.name)
    if not (folder / FOLDER).is_dir():
        raise BadInputError(f"{path} is neither a run folder nor RUN/{FOLDER}/STEP")

    def abstract(meta: Meta) -> Params:
        config = config_from_dict(meta.config, str(path))
        return layout.abstract_state(partial(init_params, config.model, 0))

    params, meta = newest_params(folder, abstract, step)
    return Model(params, config_from_dict(meta.config, str(path)), meta, folder)
