"""Save and restore checkpoints; only this file and `orbax_repairs` import Orbax.

    RUN/checkpoints/STEP/params, opt_state, meta

Orbax writes in the background, commits atomically, and restores onto any mesh. It does not detect a
changed bit in a file and does not fall back to an older step when the newest is damaged. So `meta`
has a checksum of every array, which is compared after every restore, and the newest step that
passes is used. `meta` has a SHA-256 of itself for the same reason.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bert_jax.nn.encoder import Params
from bert_jax.runtime.console import say
from bert_jax.runtime.distributed import any_process
from bert_jax.runtime.errors import BadInputError, UserError, is_lost_process
from bert_jax.runtime.paths import absolute, check_kind, explained, is_remote, remove
from bert_jax.training import orbax_repairs
from bert_jax.training.checksums import checksums_if_finite, examined
from bert_jax.training.metadata import FOLDER, DamagedError, Meta, signed, verified
from bert_jax.training.state import TrainState

orbax_repairs.keep_quiet()
orbax_repairs.use_steady_clock()

_FULL = ("No space left", "Disk quota exceeded", "File too large")
# Parts of messages of XLA and TensorStore about other problems than damaged files.
_NOT_DAMAGE = (
    "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED",
    "Permission denied",
    "Too many open files",
    "Input/output error",
    "Stale file handle",
)


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, run_dir: Path, keep: int = 3, keep_best: bool = False) -> None:
        """Open or create the folder.

        Args:
            run_dir: Folder of the run.
            keep: Number of newest checkpoints to keep.
            keep_best: Also keep the checkpoint with the lowest held-out loss.
        """
        self.folder = absolute(run_dir) / FOLDER
        self._saving = 0
        orbax_repairs.ignore_late_failures()
        policies: list[Any] = [ocp.checkpoint_managers.LatestN(keep)]
        if keep_best:
            best = ocp.checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics["loss"],
                reverse=True,
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            policies.append(best)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, state: TrainState, meta: Meta, eval_loss: float | None = None) -> None:
        """Start to save; return once the arrays are copied off the devices.

        Args:
            state: State after ``meta.step`` updates.
            meta: Saved beside it.
            eval_loss: Held-out loss of `state`, if it was just evaluated. A value that is not
                finite does not count: Orbax treats NaN as the best.

        Raises:
            NotFiniteError: A value anywhere in `state` is infinite or NaN; nothing is saved.
            UserError: The disk is full, the save before this one failed, or there is a checkpoint
                of this step or a later one.
        """
        if eval_loss is not None and not math.isfinite(eval_loss):
            say(f"step {meta.step}: the evaluation is {eval_loss}, so it cannot be the best step")
            eval_loss = None
        arrays = {"params": state.params, "opt_state": state.opt_state}
        sums = checksums_if_finite(arrays, meta.step)
        self.wait()
        self._saving = meta.step
        with self._failures_explained():
            self._check_space(state)
            is_saved = self._manager.save(
                meta.step,
                args=ocp.args.Composite(
                    **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items()},
                    meta=ocp.args.JsonSave(signed(meta, sums)),
                ),
                metrics=None if eval_loss is None else {"loss": eval_loss},
            )
        if not is_saved:
            newest = self._manager.latest_step()
            raise UserError(
                f"step {meta.step} was not saved, because {self.folder} has step {newest}; another"
                " process may use the folder: end it, and run the command again to resume"
            )

    def wait(self) -> None:
        """Return when everything is on disk.

        Raises:
            UserError: The disk is full.
        """
        with self._failures_explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """End the background threads; a save that fails only now is not reported, see `wait`."""
        with suppress(Exception):
            self._manager.close()
        orbax_repairs.release_waiting()

    def restore(
        self, abstract: TrainState, check: Callable[[Meta], None]
    ) -> tuple[TrainState, Meta] | None:
        """Restore the newest good checkpoint; rename damaged newer ones to ``STEP.damaged``.

        Args:
            abstract: Shapes, dtypes and shardings to restore to.
            check: Called with the metadata before the arrays are read; may raise.

        Returns:
            The state and its metadata; None if nothing was ever saved.

        Raises:
            BadInputError: All checkpoints are damaged.
        """
        damaged: list[int] = []
        for step in _newest_first(self.folder):
            damage = ""
            try:
                meta, sums = read_meta(self.folder / str(step))
                check(meta)
                state = self._restore_state(step, abstract, sums)
            except DamagedError as error:
                damage = str(error)
            # Processes must not continue from different steps.
            if not any_process(bool(damage)):
                self._set_aside(damaged)
                if damaged:
                    lost = damaged[0] - step
                    repeated = "1 step" if lost == 1 else f"{lost:,} steps"
                    say(f"resuming from checkpoint {step}; repeating {repeated}")
                return state, meta
            reason = damage or "another process could not read it"
            say(f"checkpoint {step} is damaged ({reason})")
            damaged.append(step)
        if damaged:
            raise BadInputError(
                f"no checkpoint in {self.folder} can be read; nothing was changed. Restore the"
                " folder from a copy, or move it away to start again"
            )
        return None

    def _restore_state(
        self, step: int, abstract: TrainState, sums: dict[str, list[int]]
    ) -> TrainState:
        items = {"params": abstract.params, "opt_state": abstract.opt_state}
        arrays = _restore_items(self.folder / str(step), items)
        _compare(arrays, sums)
        return TrainState(step=jax.device_put(np.int32(step), abstract.step.sharding), **arrays)

    def _set_aside(self, steps: list[int]) -> None:
        for step in steps if jax.process_index() == 0 else []:
            target = self.folder / f"{step}.damaged"
            remove(target)
            (self.folder / str(step)).rename(target)
            say(f"checkpoint {step} is kept as {target.name} and not used")
        any_process(False)  # no process continues before they are renamed
        self._manager.reload()

    def _check_space(self, state: TrainState) -> None:
        if is_remote(self.folder):
            return
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")

    @contextmanager
    def _failures_explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_lost_process(error):
                raise
            where = f"step {self._saving} could not be saved in {self.folder}"
            if unreachable := explained(error, where):
                raise unreachable from error
            text = str(error)
            full = any(sign in text for sign in _FULL) or getattr(error, "errno", 0) == errno.ENOSPC
            good = _newest_first(self.folder)
            raise UserError(
                f"{where}: {'the disk is full' if full else _cause(text)}."
                f" {f'Step {good[0]} is safe' if good else 'No step is saved'};"
                f" {'make room' if full else 'fix the cause'} and run the same command to resume"
            ) from error


def _cause(text: str) -> str:
    """Return the cause from a message of TensorStore or the system."""
    code = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(code[1])) if code else (text.splitlines() or ["?"])[0][:160]


def save_params(run_dir: Path, params: Params, meta: Meta) -> None:
    """Save finite parameters alone, as a checkpoint for use but not for more training."""
    sums = checksums_if_finite({"params": params}, meta.step)
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(params),
        meta=ocp.args.JsonSave(signed(meta, sums)),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(run_dir.absolute() / FOLDER / str(meta.step), args=items)


def newest_params(
    run_dir: Path, define: Callable[[Meta], Params], step: int | None = None
) -> tuple[Params, Meta]:
    """Return the parameters of the newest good checkpoint of a run; changes nothing.

    Args:
        run_dir: Folder of the run.
        define: Metadata -> shapes, dtypes and shardings of the parameters.
        step: Read this checkpoint instead of the newest.

    Raises:
        BadInputError: None exists, or all are damaged.
    """
    folder = absolute(run_dir) / FOLDER
    steps = _newest_first(folder)
    if not steps:
        raise BadInputError(f"{run_dir} has no checkpoint yet; train first")
    if step is not None and step not in steps:
        existing = ", ".join(map(str, reversed(steps)))
        raise BadInputError(f"{run_dir} has no checkpoint {step}; choose one of {existing}")
    for candidate in steps if step is None else [step]:
        try:
            meta, sums = read_meta(folder / str(candidate))
            arrays = _restore_items(folder / str(candidate), {"params": define(meta)})
            _compare(arrays, sums)
        except DamagedError as error:
            say(f"checkpoint {candidate} of {run_dir} is damaged ({error}) and not used")
            continue
        return arrays["params"], meta
    raise BadInputError(
        f"{run_dir} has no checkpoint that can be read; restore the folder from a copy"
    )


def newest_meta(run_dir: Path) -> Meta | None:
    """Return the metadata of the newest checkpoint where it can be read; None without any."""
    folder = absolute(run_dir) / FOLDER
    for step in _newest_first(folder):
        try:
            return read_meta(folder / str(step))[0]
        except DamagedError:
            continue
    return None


def read_meta(folder: Path) -> tuple[Meta, dict[str, list[int]]]:
    """Read the metadata of a checkpoint and the checksums of its arrays.

    Raises:
        DamagedError: It cannot be read, or differs from what was saved.
    """
    with _damage_reported():
        check_kind(folder / "meta" / "metadata")
        content = _restore_items(folder, {"meta": None})["meta"]
        return verified(content, int(folder.name))


def _newest_first(folder: Path) -> list[int]:
    # Not by glob, which treats a bucket that cannot be reached as empty.
    entries: list[Path] = []
    with suppress(FileNotFoundError):
        entries = list(folder.iterdir())
    steps = [path for path in entries if path.name.isdigit()]
    finished = [path for path in steps if ocp.utils.is_checkpoint_finalized(path)]
    return sorted((int(path.name) for path in finished), reverse=True)


def _restore_items(folder: Path, items: dict[str, Any]) -> dict[str, Any]:
    arguments = {
        name: ocp.args.JsonRestore() if abstract is None else ocp.args.StandardRestore(abstract)
        for name, abstract in items.items()
    }
    with _damage_reported(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        return dict(checkpointer.restore(folder, args=ocp.args.Composite(**arguments)))


@contextmanager
def _damage_reported() -> Iterator[None]:
    """Raise DamagedError for the many types of errors that damaged files cause.

    Errors that tell nothing of the files (no memory, no permission, too many open files) pass.
    """
    orbax_repairs.ignore_late_failures()
    try:
        yield
    except (DamagedError, MemoryError):
        raise
    except Exception as error:
        other_cause = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
        if other_cause or any(text in str(error) for text in _NOT_DAMAGE) or explained(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DamagedError(lines[0][:120]) from error


def _compare(arrays: dict[str, Any], expected: dict[str, list[int]]) -> None:
    for name, sums in examined(arrays)[0].items():
        if sums != expected.get(name):
            raise DamagedError(f"the checksum of {name} differs")
