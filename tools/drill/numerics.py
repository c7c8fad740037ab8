"""Non-finite numbers: in a batch, in the parameters and by overflow of bfloat16."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from bert_jax.training import metrics
from bert_jax.training.batch import Batch
from bert_jax.training.trainer import Trainer
from pipelines.data.batches.loader import PretrainingData
from support.process_harness import Environment
from tools.drill.fixture import EVERY, STEPS, Fault, Fixture, losses, newest_checkpoint
from tools.drill.report import Row
from tools.drill.results import Results, exit_problem

_ROLLBACK = ("--train.on_nonfinite", "rollback")
_ROLLBACK_LINE = re.compile(r"^(.*back to step (\d+).*)$", re.MULTILINE)
_ALWAYS = 10**9  # number of updates


def corrupt_batch(step: int, value: float) -> None:
    """Set one weight in the batch of update `step` to `value`, in this process from now on."""
    original = PretrainingData.batch_at

    def batch_at(self: PretrainingData, index: int, rows: slice = slice(None)) -> Batch:
        batch = original(self, index, rows)
        if index != step - 1:
            return batch
        weights = batch.arrays["mlm_weights"].copy()
        weights.flat[0] = value
        return replace(batch, arrays=batch.arrays | {"mlm_weights": weights})

    PretrainingData.batch_at = batch_at  # type: ignore[method-assign]


def corrupt_parameters(step: int, times: int, factor: float, seed: int) -> None:
    """Corrupt parameters after update `step` and later, so many times.

    A finite factor multiplies all parameters; another value replaces one number.
    """
    original, remaining = Trainer._update, times

    def update(self: Trainer, train_step: object, batch: Batch) -> None:
        nonlocal remaining
        original(self, train_step, batch)
        if self.step >= step and remaining:
            remaining -= 1
            leaves, tree = jax.tree.flatten(self.state.params)
            target = seed % len(leaves)
            host = [np.array(leaf) for leaf in leaves]
            for number, array in enumerate(host):
                if math.isfinite(factor):
                    array *= factor
                elif number == target:
                    array.flat[seed % array.size] = factor
            arrays = [jax.device_put(a, b.sharding) for a, b in zip(host, leaves, strict=True)]
            self.state = replace(self.state, params=jax.tree.unflatten(tree, arrays))

    Trainer._update = update  # type: ignore[method-assign]


def _rollback_problem(fixture: Fixture, run_dir: Path, step: int, exact: bool) -> str:
    """Return what is wrong with a run that rolled back because of `step`; empty if nothing is.

    Args:
        fixture: Shared by all trials.
        run_dir: Folder of the run.
        step: First update with a fault.
        exact: Require that exactly this batch was skipped; corrupted parameters may show later.
    """
    lines = metrics.read(run_dir)
    skipped = [line["step"] for line in lines if "skipped" in line]
    trained = [line["step"] for line in lines if "loss" in line]
    if sorted(skipped + trained) != list(range(1, STEPS + 1)):
        return f"trained steps {trained}, skipped {skipped}"
    if not skipped or (exact and skipped != [step]):
        return f"skipped {skipped}, not {step}"
    if any(not math.isfinite(line.get("loss", 0.0)) for line in lines):
        return "a loss is not finite"
    if exact and losses(run_dir)[: step - 1] != fixture.reference_losses[: step - 1]:
        return "losses before that step differ"
    return ""


def roll_back(name: str, kind: str, fixture: Fixture, rng: random.Random) -> Row:
    """Let a run roll back and skip a batch; a second run must do exactly the same."""
    results, folder = Results(name), fixture.new_folder()
    step = rng.randint(2, STEPS - 1)
    value = rng.choice([math.nan, math.inf, -math.inf])
    seed = rng.randrange(10**6)
    options: tuple[str, ...] = _ROLLBACK
    if kind == "batch":
        setup = partial(corrupt_batch, step, value)
    elif kind == "parameters":
        setup = partial(corrupt_parameters, step, 1, math.nan, seed)
    else:
        setup = partial(corrupt_parameters, step, 1, 1e30, seed)
        options += ("--model.dtype", "bfloat16")
    for run in ("first", "second"):
        process = fixture.pretrain(
            folder, folder / run, *options, environment=Environment(setup=setup)
        )
        problem = exit_problem(process, 0)
        rollbacks = _ROLLBACK_LINE.findall(process.stderr)
        if not problem and len(rollbacks) != 1:
            problem = f"{len(rollbacks)} rollbacks"
        problem = problem or _rollback_problem(fixture, folder / run, step, kind == "batch")
        message, target = rollbacks[0] if rollbacks else ("", step + 1)
        lost = step + 1 - int(target)
        # The result of a step arrives a few steps later.
        too_many = f"{lost} steps lost" if lost > EVERY + 4 else ""
        results.add(f"update {step}, {value}", problem, too_many, message=message, lost=lost)
    if not results.failures and fixture.digest_of(folder / "first") != fixture.digest_of(
        folder / "second"
    ):
        results.failures.append(f"update {step}: two runs gave different parameters")
    return results.finish(folder)


def stop(name: str, fixture: Fixture, rng: random.Random) -> Row:
    """Let a run stop at a bad batch without saving it; resume with the good batch."""
    results, folder = Results(name), fixture.new_folder()
    step = rng.randint(2, STEPS)
    run_dir = folder / "run"
    environment = Environment(setup=partial(corrupt_batch, step, math.nan))
    process = fixture.pretrain(folder, run_dir, environment=environment)
    problem = exit_problem(process, 78)
    saved = newest_checkpoint(run_dir)
    if not problem and not step - 1 - EVERY <= saved < step:
        problem = f"the newest checkpoint is {saved}"
    again = fixture.pretrain(folder, run_dir)
    problem = problem or exit_problem(again, 0) or fixture.difference(run_dir)
    results.add(f"update {step}", problem, message=process.last_line, lost=step - 1 - saved)
    return results.finish(folder)


def give_up(name: str, fixture: Fixture, rng: random.Random) -> Row:
    """Let rollbacks fail: the run ends with a message, and older checkpoints stay complete."""
    results, folder = Results(name), fixture.new_folder()
    step = rng.randint(EVERY + 1, STEPS - EVERY)
    run_dir = folder / "run"
    setup = partial(corrupt_parameters, step, _ALWAYS, math.nan, rng.randrange(10**6))
    process = fixture.pretrain(folder, run_dir, *_ROLLBACK, environment=Environment(setup=setup))
    problem = exit_problem(process, 78)
    if not problem and "did not help" not in process.last_line:
        problem = f"message: {process.last_line!r}"
    saved = newest_checkpoint(run_dir)
    again = fixture.pretrain(folder, run_dir)
    problem = problem or exit_problem(again, 0) or fixture.difference(run_dir)
    results.add(f"from update {step}", problem, message=process.last_line, lost=step - saved)
    return results.finish(folder)


def faults() -> Iterator[Fault]:
    """Yield the faults of this module."""
    for kind, label in (
        ("batch", "NaN or infinity in a batch"),
        ("parameters", "NaN in a parameter"),
        ("overflow", "overflow in bfloat16"),
    ):
        name = f"{label}, rollback"
        yield Fault(name, partial(roll_back, name, kind), quick=int(kind == "batch"))
    name = "NaN in a batch, stop"
    yield Fault(name, partial(stop, name), jobs=2, quick=0)
    name = "NaN again and again, rollback"
    yield Fault(name, partial(give_up, name), quick=0)
