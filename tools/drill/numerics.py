"""Numbers that are not finite: in a batch, in the parameters, and where bfloat16 overflows."""

from __future__ import annotations

import math
import random
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
from support.process_harness import Circumstances
from tools.drill.report import Row
from tools.drill.stage import EVERY, STEPS, Fault, Stage, losses, newest_checkpoint
from tools.drill.tally import Tally, ended

_ROLLBACK = ("--train.on_nonfinite", "rollback")
_ALWAYS = 10**9  # times


def poison_batch(step: int, value: float) -> None:
    """From now on in this process, one weight of the batch of update `step` is `value`."""
    whole = PretrainingData.batch_at

    def batch_at(self: PretrainingData, index: int, rows: slice = slice(None)) -> Batch:
        batch = whole(self, index, rows)
        if index != step - 1:
            return batch
        weights = batch.arrays["mlm_weights"].copy()
        weights.flat[0] = value
        return replace(batch, arrays=batch.arrays | {"mlm_weights": weights})

    PretrainingData.batch_at = batch_at  # type: ignore[method-assign]


def poison_parameters(step: int, times: int, factor: float, seed: int) -> None:
    """After update `step`, once or more, parameters are multiplied: NaN in one number, or all."""
    whole, left = Trainer._update, [times]

    def update(self: Trainer, train_step: object, batch: Batch) -> None:
        whole(self, train_step, batch)
        if self.step >= step and left[0]:
            left[0] -= 1
            leaves, tree = jax.tree.flatten(self.state.params)
            chosen = seed % len(leaves)
            host = [np.array(leaf) for leaf in leaves]
            for number, array in enumerate(host):
                if math.isfinite(factor):
                    array *= factor
                elif number == chosen:
                    array.flat[seed % array.size] = factor
            placed = [jax.device_put(a, b.sharding) for a, b in zip(host, leaves, strict=True)]
            self.state = replace(self.state, params=jax.tree.unflatten(tree, placed))

    Trainer._update = update  # type: ignore[method-assign]


def _went_back(stage: Stage, run_dir: Path, step: int, exact: bool) -> str:
    """What is wrong with a run that went back because of `step`, and left its batch out.

    Args:
        stage: Where it is.
        run_dir: Of the run.
        step: The first update that was not as it should be.
        exact: Whether just that batch is left out; and not one in which parameters are used.
    """
    lines = metrics.read(run_dir)
    skipped = [line["step"] for line in lines if "skipped" in line]
    trained = [line["step"] for line in lines if "loss" in line]
    if sorted(skipped + trained) != list(range(1, STEPS + 1)):
        return f"it did the steps {trained} and left out {skipped}"
    if not skipped or (exact and skipped != [step]):
        return f"it left out {skipped}, not {step}"
    if any(not math.isfinite(line.get("loss", 0.0)) for line in lines):
        return "a loss is not finite"
    if exact and losses(run_dir)[: step - 1] != stage.losses[: step - 1]:
        return "losses before that step are others"
    return ""


def gone_back(name: str, kind: str, stage: Stage, rng: random.Random) -> Row:
    """The run goes back and leaves a batch out; again in another process it does just the same."""
    tally, place = Tally(name), stage.place()
    step = rng.randint(2, STEPS - 1)
    value = rng.choice([math.nan, math.inf, -math.inf])
    number = rng.randrange(10**6)
    options: tuple[str, ...] = _ROLLBACK
    if kind == "batch":
        before = partial(poison_batch, step, value)
    elif kind == "parameters":
        before = partial(poison_parameters, step, 1, math.nan, number)
    else:
        before = partial(poison_parameters, step, 1, 1e30, number)
        options += ("--model.dtype", "bfloat16")
    lives = []
    for run in ("first", "second"):
        life = stage.pretrain(place, place / run, *options, under=Circumstances(before=before))
        wrong = ended(life, 0)
        said = [line for line in life.said.splitlines() if "back to step" in line]
        if not wrong and len(said) != 1:
            wrong = f"it went back {len(said)} times"
        wrong = wrong or _went_back(stage, place / run, step, kind == "batch")
        lost = step + 1 - int(said[0].partition("back to step ")[2].split(",")[0]) if said else 0
        # What comes of a step is known some steps later: they are on their way meanwhile.
        far = f"{lost} steps lost" if lost > EVERY + 4 else ""
        message = said[0] if said else ""
        tally.judge(f"update {step}, {value}", wrong, far, message=message, lost=lost)
        lives.append(life)
    if not tally.failures and stage.digest_of(place / "first") != stage.digest_of(place / "second"):
        tally.failures.append(f"update {step}: twice the same gave different parameters")
    return tally.closed(stage, place)


def stopped(name: str, stage: Stage, rng: random.Random) -> Row:
    """Unless it is told to go back it ends, saves nothing of it, and goes on when all is well."""
    tally, place = Tally(name), stage.place()
    step = rng.randint(2, STEPS)
    run_dir = place / "run"
    under = Circumstances(before=partial(poison_batch, step, math.nan))
    life = stage.pretrain(place, run_dir, under=under)
    wrong = ended(life, 78)
    safe = newest_checkpoint(run_dir)
    if not wrong and not step - 1 - EVERY <= safe < step:
        wrong = f"its newest checkpoint is {safe}"
    again = stage.pretrain(place, run_dir)
    wrong = wrong or ended(again, 0) or stage.complaint(run_dir)
    tally.judge(f"update {step}", wrong, message=life.last_line, lost=step - 1 - safe)
    return tally.closed(stage, place)


def hopeless(name: str, stage: Stage, rng: random.Random) -> Row:
    """Where going back does not help it says so and ends; what was saved before is whole."""
    tally, place = Tally(name), stage.place()
    step = rng.randint(EVERY + 1, STEPS - EVERY)
    run_dir = place / "run"
    before = partial(poison_parameters, step, _ALWAYS, math.nan, rng.randrange(10**6))
    life = stage.pretrain(place, run_dir, *_ROLLBACK, under=Circumstances(before=before))
    wrong = ended(life, 78)
    if not wrong and "did not help" not in life.last_line:
        wrong = f"it said {life.last_line!r}"
    safe = newest_checkpoint(run_dir)
    again = stage.pretrain(place, run_dir)
    wrong = wrong or ended(again, 0) or stage.complaint(run_dir)
    tally.judge(f"from update {step}", wrong, message=life.last_line, lost=step - safe)
    return tally.closed(stage, place)


def faults() -> Iterator[Fault]:
    """All of them."""
    for kind, what in (
        ("batch", "NaN or infinity in a batch"),
        ("parameters", "NaN in a parameter"),
        ("overflow", "overflow in bfloat16"),
    ):
        name = f"{what}, rollback"
        yield Fault(name, partial(gone_back, name, kind), quick=int(kind == "batch"))
    name = "NaN in a batch, stop"
    yield Fault(name, partial(stopped, name), jobs=2, quick=0)
    name = "NaN again and again, rollback"
    yield Fault(name, partial(hopeless, name), quick=0)
