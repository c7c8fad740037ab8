"""Compiles each step once per test process instead of once per run.

A run builds new functions for its step, so JAX traces, lowers and compiles everything again for a
second run with the same config: two to five seconds for a step that takes milliseconds. This module
caches the functions that depend only on a config, so that the caches of JAX hit. The programs stay
the same. Commands in separate processes always compile.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any

import jax
import optax
import pytest

import pipelines.models.warm_start
import pipelines.tasks.experiment
from bert_jax.config.run import OptimizerConfig, Phase
from bert_jax.training import optimizers, step
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.step import Steps

_cache: dict[Hashable, Any] = {}


def _once(
    kind: str, partitioner: Partitioner, of: tuple[Hashable, ...], make: Callable[[], Any]
) -> Any:
    try:
        key = (kind, partitioner.mesh, partitioner.mapping, partitioner.shard_state, *of)
        if key not in _cache:
            _cache[key] = make()
    except TypeError:  # a part that cannot be hashed
        return make()
    return _cache[key]


def _hashable(tree: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(tree)
    arrays = tuple((leaf.shape, leaf.tobytes()) for leaf in map(jax.device_get, leaves))
    return structure, arrays


def _parts(of: Steps) -> tuple[Hashable, ...]:
    return (of.objective, *of.optimizer, of.learning_rate, of.seed, _hashable(of.lr_scales),
            of.accumulate, of.compute_dtype)  # fmt: skip


def _optimizer(
    config: OptimizerConfig, phases: tuple[Phase, ...], lr_scales: Any = None
) -> optax.GradientTransformation:
    key = ("optimizer", config, phases, _hashable(lr_scales))
    if key not in _cache:
        _cache[key] = optimizers.optimizer(config, phases, lr_scales)
    return _cache[key]


def install(patch: pytest.MonkeyPatch) -> None:
    """Let runs in this process share steps."""
    schedule = cache(optimizers.schedule)
    patch.setattr(step, "optimizer", _optimizer)
    patch.setattr(step, "schedule", schedule)
    patch.setattr(step, "pretraining", cache(step.pretraining))
    patch.setattr(pipelines.models.warm_start, "optimizer", _optimizer)
    patch.setattr(pipelines.tasks.experiment, "optimizer", _optimizer)
    patch.setattr(pipelines.tasks.experiment, "schedule", schedule)
    patch.setattr(pipelines.tasks.experiment, "task_objective", cache(step.task_objective))

    train_step, eval_step, build = Partitioner.train_step, Partitioner.eval_step, Partitioner.build

    def cached_train(partitioner: Partitioner, of: Steps) -> Any:
        return _once("train", partitioner, _parts(of), partial(train_step, partitioner, of))

    def cached_eval(partitioner: Partitioner, of: Steps) -> Any:
        return _once("eval", partitioner, _parts(of), partial(eval_step, partitioner, of))

    def cached_build(partitioner: Partitioner, make: Callable[..., Any], *arguments: Any) -> Any:
        if not isinstance(make, partial) or make.keywords:
            return build(partitioner, make, *arguments)
        shapes = jax.eval_shape(make, *arguments)
        leaves, tree = jax.tree.flatten(shapes)
        of = (make.func, *make.args, tree, *((leaf.shape, leaf.dtype) for leaf in leaves))
        place = partial(jax.jit, make, out_shardings=partitioner.shardings(shapes))
        return _once("build", partitioner, of, place)(*arguments)

    patch.setattr(Partitioner, "train_step", cached_train)
    patch.setattr(Partitioner, "eval_step", cached_eval)
    patch.setattr(Partitioner, "build", cached_build)
