"""The folder of a run: locked while it trains, with all that is needed to use it later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from bert_jax.nn.encoder import Params
from bert_jax.runtime.errors import BadInputError, is_lost_process
from bert_jax.runtime.paths import at, is_remote, remove
from bert_jax.training import metrics
from bert_jax.training.checkpoint import newest_meta
from bert_jax.training.experiment import Experiment
from bert_jax.training.metadata import Meta
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.trainer import Trainer
from pipelines.data.tokenizers.tokenizer import Tokenizer, load
from pipelines.folders import RUN_CONFIG, RUN_MARKS, RUN_TOKENIZER, exclusive, own
from pipelines.settings import to_yaml


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run; `open_run_folder` opens it once per command."""

    path: Path

    @cached_property
    def newest(self) -> Meta | None:
        """The metadata of the newest checkpoint when the folder was opened; None without one."""
        return newest_meta(self.path)

    def train(
        self,
        experiment: Experiment,
        partitioner: Partitioner,
        tokenizer: Tokenizer,
        files: Mapping[str, bytes] = MappingProxyType({}),
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Params:
        """Train the run from its start or its newest checkpoint.

        Args:
            experiment: The run.
            partitioner: The devices.
            tokenizer: Copied into the folder.
            files: Name -> content of other files to write before the first update.
            on_step: Called with the number of every finished step.

        Returns:
            The parameters at the end.

        Raises:
            BadInputError: The run started with other settings.
            PreemptedError: The process was asked to stop; everything is saved.
        """
        trainer, lost = Trainer(experiment, partitioner, on_step), False
        try:
            if jax.process_index() == 0:
                self._write_inputs(experiment, tokenizer, files)
            trainer.run()
        except RuntimeError as error:
            lost = is_lost_process(error)
            raise
        finally:
            trainer.close(wait=not lost)
        return trainer.form.as_stored(trainer.state).params

    def latest_metrics(self, *names: str) -> dict[str, str]:
        """Return the newest values of these metrics, as text, and the command for the curves."""
        newest: dict[str, Any] = {}
        if jax.process_index() == 0:
            for line in metrics.read(self.path):
                newest |= line
        values = {name: newest[name] for name in names if newest.get(name) is not None}
        rows = {
            name.replace("eval_", "held_out_"): f"{x:,}" if isinstance(x, int) else f"{x:.4g}"
            for name, x in values.items()
        }
        return rows | {"curves": f"tensorboard --logdir {self.path}"}

    def _write_inputs(
        self, experiment: Experiment, tokenizer: Tokenizer, files: Mapping[str, bytes]
    ) -> None:
        """Write config, tokenizer and `files`; whole files only, even if the process is killed."""
        for name, content in {RUN_CONFIG: to_yaml(experiment.config).encode(), **files}.items():
            draft = self.path / f"{name}.tmp"
            draft.write_bytes(content)
            draft.replace(self.path / name)
        folder = self.path / RUN_TOKENIZER
        try:
            same = load(folder).digest == tokenizer.digest
        except BadInputError:
            same = False
        if same:
            return
        draft = self.path / f"{RUN_TOKENIZER}.tmp"
        tokenizer.save(draft)
        remove(folder)
        draft.replace(folder)


@contextmanager
def open_run_folder(run_dir: str) -> Iterator[RunFolder]:
    """Create the folder of a run and lock it against other processes.

    A folder that is still empty at the end is removed. A bucket has neither folders nor locks;
    there the user must not start a second job.

    Raises:
        BadInputError: The folder cannot be created, or contains other things.
        DeviceUnavailableError: Another process writes to it.
    """
    path = at(run_dir)
    own(path, "run_dir", RUN_MARKS)
    if is_remote(path):
        yield RunFolder(path)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"run_dir {path} cannot be created: {error.strerror}; choose another"
        ) from None
    try:
        with exclusive(path) if jax.process_index() == 0 else nullcontext():
            yield RunFolder(path)
    finally:
        with suppress(OSError):  # it is not empty
            path.rmdir()
