"""Saving and restoring; the only file that imports Orbax.

    RUN/checkpoints/STEP/params, opt_state, meta

Orbax writes in the background, commits atomically, and restores onto any mesh. It does not notice a
changed bit in a file, and does not look at an older step when the newest is damaged. So `meta`
holds a checksum of every array, which is compared after every restore, and the newest step that
passes is taken.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array

from bert_jax.console import say
from bert_jax.errors import BadInputError, UserError
from bert_jax.parallel import any_process
from bert_jax.state import Params, TrainState

FOLDER = "checkpoints"

# Orbax logs every failure of each of its threads and reads with a traceback (a full disk: 300
# lines), and then raises it as well; what it raises is reported below, once.
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Meta:
    """What is saved beside the arrays.

    Attributes:
        step: Updates done.
        tokens: Trained on so far, without padding.
        seconds: Spent on training so far, over all restarts.
        config: Of the run, resolved.
        data: Digests that the data must have.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)


class DamagedError(Exception):
    """A checkpoint cannot be read, or is not what was saved."""


def checksums(tree: Any) -> dict[str, Array]:
    """uint32 [2] per array: sums of its bit patterns with odd weights that depend on the place.

    Computed where the array lives, whole or in pieces: sums of integers do not depend on the order,
    so the same array has the same sums on any mesh. An odd weight makes every single changed bit
    change the sum.
    """
    return {name: _checksum(array) for name, array in named_leaves(tree)}


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with names such as ``bert/pooler/bias``."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in named]


def _checksum(array: Array) -> Array:
    words = jax.lax.bitcast_convert_type(array.reshape(-1), f"uint{8 * array.dtype.itemsize}")
    words = words.astype(jnp.uint32)
    place = jax.lax.iota(jnp.uint32, words.size)
    weights = (2 * place + 1, (place * jnp.uint32(2654435761)) | 1)
    return jnp.stack([jnp.sum(words * weight, dtype=jnp.uint32) for weight in weights])


def digest(params: Params) -> str:
    """SHA-256 of the parameters: names, shapes, dtypes and values; the same on any mesh."""
    total = hashlib.sha256()
    for name, leaf in named_leaves(params):
        array = np.asarray(leaf)
        total.update(f"{name} {array.shape} {array.dtype}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, run_dir: Path, keep: int = 3, keep_best: bool = False) -> None:
        """Opens or creates the folder.

        Args:
            run_dir: Of the run.
            keep: How many of the newest to keep.
            keep_best: Also keep the one with the lowest held-out loss.
        """
        self.folder = run_dir.absolute() / FOLDER
        self._saving = 0
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
        """Begins to save; returns once the arrays are copied off the devices.

        Args:
            state: At ``meta.step``.
            meta: What is saved beside it.
            eval_loss: Held-out loss of `state`, if it was just measured.

        Raises:
            UserError: The disk is full, or the save before this one failed.
        """
        sums = {name: pair.tolist() for name, pair in _checksums_of(state).items()}
        self.wait()
        self._saving = meta.step
        with self._failures_explained():
            self._check_space(state)
            self._manager.save(
                meta.step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    opt_state=ocp.args.StandardSave(state.opt_state),
                    meta=ocp.args.JsonSave(asdict(meta) | {"checksums": sums}),
                ),
                metrics=None if eval_loss is None else {"loss": eval_loss},
            )

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            UserError: The disk is full.
        """
        with self._failures_explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Ends the background threads."""
        self._manager.close()

    def restore(
        self, abstract: TrainState, check: Callable[[Meta], None]
    ) -> tuple[TrainState, Meta] | None:
        """The newest good checkpoint; damaged newer ones are renamed to ``STEP.damaged``.

        Args:
            abstract: Shapes, dtypes and shardings to restore to.
            check: Is shown what was saved beside the arrays before they are read; may raise.

        Returns:
            The state and what was saved beside it; None if nothing was ever saved.

        Raises:
            BadInputError: All checkpoints are damaged.
        """
        for step in _newest_first(self.folder):
            damage = ""
            try:
                meta, sums = read_meta(self.folder / str(step))
                check(meta)
                state = self._restore_state(step, abstract, sums)
            except DamagedError as error:
                damage = str(error)
            # Processes must not go on from different steps.
            if not any_process(bool(damage)):
                self._manager.reload()
                return state, meta
            self._set_aside(step)
            reason = damage or "another process could not read it"
            say(f"checkpoint {step} is damaged ({reason}); kept as {step}.damaged, not used")
        if any(self.folder.glob("*.damaged")):
            raise BadInputError(
                f"every checkpoint in {self.folder} is damaged; restore the folder from a copy, or"
                " remove it to start again"
            )
        return None

    def _restore_state(
        self, step: int, abstract: TrainState, sums: dict[str, list[int]]
    ) -> TrainState:
        items = {"params": abstract.params, "opt_state": abstract.opt_state}
        arrays = _restore_items(self.folder / str(step), items)
        _compare(arrays, sums)
        return TrainState(step=jax.device_put(np.int32(step), abstract.step.sharding), **arrays)

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            damaged = self.folder / str(step)
            target = damaged.with_name(f"{step}.damaged")
            if target.exists():
                shutil.rmtree(target)
            damaged.rename(target)
        any_process(False)  # nobody goes on before it is renamed

    def _check_space(self, state: TrainState) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, {free:,} are free")

    @contextmanager
    def _failures_explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            text = str(error)
            full = "No space left" in text or getattr(error, "errno", None) == errno.ENOSPC
            if not full and not isinstance(error, OSError):
                raise
            good = _newest_first(self.folder)
            raise UserError(
                f"step {self._saving} could not be saved in {self.folder}:"
                f" {'the disk is full' if full else text.splitlines()[0][:200]}."
                f" {f'Step {good[0]} is safe' if good else 'No step is saved'}; make room and run"
                " the same command to go on"
            ) from error


def newest_params(
    run_dir: Path, define: Callable[[Meta], Params], step: int | None = None
) -> tuple[Params, Meta]:
    """The parameters of the newest good checkpoint of a run, for reading only.

    Args:
        run_dir: Of the run.
        define: Shapes, dtypes and shardings of the parameters of a run.
        step: Take this one instead of the newest.

    Raises:
        BadInputError: There is none, or all are damaged.
    """
    folder = run_dir.absolute() / FOLDER
    for candidate in _newest_first(folder) if step is None else [step]:
        try:
            meta, sums = read_meta(folder / str(candidate))
            arrays = _restore_items(folder / str(candidate), {"params": define(meta)})
            _compare(arrays, sums)
        except DamagedError as error:
            say(f"checkpoint {candidate} of {run_dir} is damaged ({error}); not used")
            continue
        return arrays["params"], meta
    raise BadInputError(f"{run_dir} holds no checkpoint that can be used")


def read_meta(folder: Path) -> tuple[Meta, dict[str, list[int]]]:
    """What was saved beside the arrays, and their checksums.

    Raises:
        DamagedError: It cannot be read.
    """
    with _damage_reported():
        given = _restore_items(folder, {"meta": None})["meta"]
        sums = given.pop("checksums")
        return Meta(**given), sums


def _newest_first(folder: Path) -> list[int]:
    steps = [path for path in folder.glob("*") if path.name.isdigit()]
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
    """Orbax, TensorStore and json raise many types on damaged files; all mean the same here."""
    _ignore_late_reads()
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DamagedError(lines[0][:120]) from error


def _ignore_late_reads() -> None:
    """Silences reads of Orbax that fail after it gave up a restore: nobody waits for them."""
    hook = sys.unraisablehook
    if getattr(hook, "ignores_late_reads", False):
        return

    def filtered(late: Any) -> None:
        code = getattr(late.object, "cr_code", None)
        orphaned = code is not None and "orbax" in code.co_filename
        if not orphaned and str(late.exc_value) != "Event loop is closed":
            hook(late)

    filtered.ignores_late_reads = True  # type: ignore[attr-defined]
    sys.unraisablehook = filtered


def _compare(arrays: Any, expected: dict[str, list[int]]) -> None:
    for name, sums in _checksums_of(arrays).items():
        if sums.tolist() != expected.get(name):
            raise DamagedError(f"{name} is not what was saved")


def _checksums_of(tree: TrainState | dict[str, Any]) -> dict[str, np.ndarray]:
    arrays = (
        {"params": tree.params, "opt_state": tree.opt_state}
        if isinstance(tree, TrainState)
        else tree
    )
    return jax.device_get(jax.jit(checksums)(arrays))
