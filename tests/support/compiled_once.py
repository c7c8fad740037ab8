"""Compiles each step once per test process instead of once per run.

A run builds its step from functions made for it, which JAX cannot recognize: a second run with the
same config traces, lowers and compiles everything again, two to five seconds for a step that takes
milliseconds. Here the functions that only depend on a config are kept, so JAX's own caches hit.
What is compiled stays the same. Commands in processes of their own always compile.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any

import jax
import pytest

import pipelines.models.initial
import pipelines.tasks.experiment
from bert_jax.training import optimizers, step
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.step import Steps

_kept: dict[Hashable, Any] = {}


def _once(
    kind: str, partitioner: Partitioner, of: tuple[Hashable, ...], make: Callable[[], Any]
) -> Any:
    try:
        key = (kind, partitioner.mesh, partitioner.mapping, partitioner.shard_state, *of)
        if key not in _kept:
            _kept[key] = make()
    except TypeError:  # a part that cannot be compared
        return make()
    return _kept[key]


def _parts(of: Steps) -> tuple[Hashable, ...]:
    leaves, tree = jax.tree.flatten(of.lr_scales)
    factors = tuple((leaf.shape, leaf.tobytes()) for leaf in map(jax.device_get, leaves))
    return (of.objective, *of.optimizer, of.learning_rate, of.seed, tree, factors,
            of.accumulate, of.compute_dtype)  # fmt: skip


def install(patch: pytest.MonkeyPatch) -> None:
    """Lets later runs of this process find the steps of earlier ones."""
    optimizer, schedule = cache(optimizers.optimizer), cache(optimizers.schedule)
    patch.setattr(step, "optimizer", optimizer)
    patch.setattr(step, "schedule", schedule)
    patch.setattr(step, "pretraining", cache(step.pretraining))
    patch.setattr(pipelines.models.initial, "optimizer", optimizer)
    patch.setattr(pipelines.tasks.experiment, "optimizer", optimizer)
    patch.setattr(pipelines.tasks.experiment, "schedule", schedule)
    patch.setattr(pipelines.tasks.experiment, "task_objective", cache(step.task_objective))

    train_step, eval_step, build = Partitioner.train_step, Partitioner.eval_step, Partitioner.build

    def kept_train(partitioner: Partitioner, of: Steps) -> Any:
        return _once("train", partitioner, _parts(of), partial(train_step, partitioner, of))

    def kept_eval(partitioner: Partitioner, of: Steps) -> Any:
        return _once("eval", partitioner, _parts(of), partial(eval_step, partitioner, of))

    def kept_build(partitioner: Partitioner, make: Callable[..., Any], *arguments: Any) -> Any:
        if not isinstance(make, partial) or make.keywords:
            return build(partitioner, make, *arguments)
        shapes = jax.eval_shape(make, *arguments)
        leaves, tree = jax.tree.flatten(shapes)
        of = (make.func, *make.args, tree, *((leaf.shape, leaf.dtype) for leaf in leaves))
        place = partial(jax.jit, make, out_shardings=partitioner.shardings(shapes))
        return _once("build", partitioner, of, place)(*arguments)

    patch.setattr(Partitioner, "train_step", kept_train)
    patch.setattr(Partitioner, "eval_step", kept_eval)
    patch.setattr(Partitioner, "build", kept_build)
