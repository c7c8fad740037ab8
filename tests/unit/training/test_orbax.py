"""What Orbax does silently, and what a run makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import UserError
from bert_jax.training.checkpoint import Checkpoints, Meta
from bert_jax.training.state import TrainState, init_state
from bert_jax.training.step import Steps


@pytest.fixture
def state(config: RunConfig) -> TrainState:
    return partial(init_state, config.model, Steps.of(config).optimizer, config.seed)()


@contextmanager
def manager(folder: Path) -> Iterator[ocp.CheckpointManager]:
    best = ocp.checkpoint_managers.BestN(
        get_metric_fn=lambda metrics: metrics["loss"],
        reverse=True,
        n=1,
        keep_checkpoints_without_metrics=False,
    )
    options = ocp.CheckpointManagerOptions(preservation_policy=best)
    with ocp.CheckpointManager(folder, options=options) as opened:
        yield opened


def saved(opened: ocp.CheckpointManager, step: int, loss: float) -> bool:
    tree = {"x": jnp.arange(3)}
    return opened.save(step, args=ocp.args.StandardSave(tree), metrics={"loss": loss})


def test_orbax_prefers_nan_and_does_not_save_an_earlier_step(tmp_path: Path) -> None:
    """If this fails, a newer Orbax may make the tests below and their code unnecessary."""
    with manager(tmp_path / "plain") as opened:
        results = [saved(opened, step, loss) for step, loss in [(1, 1.0), (2, math.nan)]]
        results += [saved(opened, step, 0.5) for step in (2, 1)]
        opened.wait_until_finished()
        assert results == [True, True, False, False]
        assert opened.all_steps() == [2]


def kept(folder: Path, state: Any, losses: Sequence[float | None]) -> set[str]:
    checkpoints = Checkpoints(folder, keep=1, keep_best=True)
    for step, loss in enumerate(losses, start=1):
        checkpoints.save(state, Meta(step=step), loss)
    checkpoints.wait()
    checkpoints.close()
    return {path.name for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize("worst", [math.nan, -math.nan, math.inf, -math.inf, None])
def test_an_evaluation_that_is_not_finite_is_never_the_best(
    worst: float | None, tmp_path: Path, state: TrainState, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kept(tmp_path / "a", state, [worst, 2.0, worst, 1.0, worst, 3.0]) == {"4", "6"}
    assert kept(tmp_path / "b", state, [1.0, worst]) == {"1", "2"}
    assert kept(tmp_path / "c", state, [worst, worst]) == {"2"}
    assert capsys.readouterr().err.count("cannot be the best") == (0 if worst is None else 6)


@pytest.mark.parametrize("step", [5, 3])
def test_a_step_that_orbax_does_not_save_is_an_error(
    step: int, tmp_path: Path, state: TrainState
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, Meta(step=5))
    with pytest.raises(UserError, match=f"step {step} was not saved.* has step 5"):
        checkpoints.save(state, Meta(step=step))
    checkpoints.save(state, Meta(step=6))
    checkpoints.wait()
    checkpoints.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"5", "6"}
