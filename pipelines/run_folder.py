"""A training run in its folder: kept from others, with everything that is needed to use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from bert_jax.runtime.errors import BadInputError, tells_of_lost_process
from bert_jax.runtime.paths import at, is_remote, remove
from bert_jax.training import metrics
from bert_jax.training.experiment import Experiment
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import Params
from bert_jax.training.trainer import Trainer
from pipelines.data.tokenizers.tokenizer import Tokenizer, load
from pipelines.folders import RUN_CONFIG, RUN_MARKS, RUN_TOKENIZER, exclusive, own
from pipelines.settings import to_yaml


@contextmanager
def taken(run_dir: Path) -> Iterator[None]:
    """Makes the folder of a run and holds it against other processes; left empty it goes again.

    A bucket has neither folders nor locks: there nobody but the user keeps a second job away.

    Raises:
        BadInputError: It cannot be made, or holds other things.
    """
    own(run_dir, "run_dir", RUN_MARKS)
    if is_remote(run_dir):
        yield
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"run_dir {run_dir} cannot be made: {error.strerror}") from None
    try:
        with exclusive(run_dir) if jax.process_index() == 0 else nullcontext():
            yield
    finally:
        with suppress(OSError):  # it is not empty
            run_dir.rmdir()


def train(
    experiment: Experiment,
    partitioner: Partitioner,
    tokenizer: Tokenizer,
    files: Mapping[str, bytes] = MappingProxyType({}),
    on_step: Callable[[int], None] = lambda step: None,
) -> Params:
    """Trains, or goes on training, in the folder of the run.

    Args:
        experiment: The run.
        partitioner: Where it runs.
        tokenizer: Is copied into the folder.
        files: Name -> content of what else is written there before the first update.
        on_step: Hears of every step that is done.

    Returns:
        The parameters at the end.

    Raises:
        BadInputError: The run began with other settings.
        PreemptedError: The process was told to end; everything is saved.
    """
    run_dir = at(experiment.config.run_dir)
    trainer, lost = Trainer(experiment, partitioner, on_step), False
    try:
        if jax.process_index() == 0:
            _keep_at_hand(run_dir, experiment, tokenizer, files)
        trainer.run()
    except RuntimeError as error:
        lost = tells_of_lost_process(error)
        raise
    finally:
        trainer.close(wait=not lost)
    return trainer.state.params


def metrics_table(run_dir: Path, *names: str) -> dict[str, str]:
    """The newest values of these metrics of a run that have one, and where its curves are."""
    found: dict[str, Any] = {}
    if jax.process_index() == 0:
        for line in metrics.read(run_dir):
            found |= line
    known = {name: found[name] for name in names if found.get(name) is not None}
    rows = {
        name.replace("eval_", "held_out_"): f"{x:,}" if isinstance(x, int) else f"{x:.4g}"
        for name, x in known.items()
    }
    return rows | {"curves": f"tensorboard --logdir {run_dir}"}


def _keep_at_hand(
    run_dir: Path, experiment: Experiment, tokenizer: Tokenizer, files: Mapping[str, bytes]
) -> None:
    """Writes what is needed to use the run; whole files only, whenever the process is killed."""
    for name, content in {RUN_CONFIG: to_yaml(experiment.config).encode(), **files}.items():
        draft = run_dir / f"{name}.tmp"
        draft.write_bytes(content)
        draft.replace(run_dir / name)
    folder = run_dir / RUN_TOKENIZER
    try:
        same = load(folder).digest == tokenizer.digest
    except BadInputError:
        same = False
    if same:
        return
    draft = run_dir / f"{RUN_TOKENIZER}.tmp"
    tokenizer.save(draft)
    remove(folder)
    draft.replace(folder)
