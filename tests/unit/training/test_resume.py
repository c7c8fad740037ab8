"""Changes of the config between sessions."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from bert_jax.config.model import ModelConfig
from bert_jax.config.resume_policies import resume_policies
from bert_jax.config.run import DataConfig, RunConfig, as_dict
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import BadInputError, PreemptedError
from bert_jax.training import metrics, resume
from bert_jax.training.partitioner import Partitioner
from pipelines.pretraining import pretrain
from pipelines.tasks.config import FinetuneConfig


def test_a_run_of_an_older_version_resumes(config: RunConfig) -> None:
    """Keys that were added later have their defaults."""
    old = json.loads(json.dumps(as_dict(config)))
    del old["init"], old["model"]["encoder"], old["data"]["whole_words"]
    assert resume.changes(old, config, {}, {}, 5) == []
    words = replace(config, data=replace(config.data, whole_words=True))
    with pytest.raises(BadInputError, match=r"data\.whole_words: False -> True"):
        resume.changes(old, words, {}, {}, 5)
    initialized = replace(config, init="elsewhere", model=config.model)
    with pytest.raises(BadInputError, match="started without --init"):
        resume.changes(old, initialized, {}, {}, 5)


def held_out(run: Path) -> list[tuple[int, Any]]:
    return [(x["step"], x["eval_loss"]) for x in metrics.read(run) if "eval_loss" in x]


@pytest.mark.parametrize("step", [10, 20], ids=["on the way", "at the last step"])
def test_an_evaluation_skipped_by_a_stop_request_is_done_on_resume(
    config: RunConfig, trained: Path, step: int
) -> None:
    """There may be no time for it before the machine stops."""

    def on_step(done: int) -> None:
        if done == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    partitioner = Partitioner(devices()[:1])
    with pytest.raises(PreemptedError, match=f"step {step} of 20 is saved"):
        pretrain(config, partitioner, on_step)
    run = Path(config.run_dir)
    assert held_out(run) == held_out(trained)[: step // 10 - 1]
    pretrain(config, partitioner)
    pretrain(config, partitioner)
    assert held_out(run) == held_out(trained)


def test_a_key_is_fixed_unless_its_field_is_free() -> None:
    """A resumed run would train on other data, or another network, without an error."""
    shared = {f"model.{key.name}" for key in fields(ModelConfig)} - {
        f"model.{name}"
        for name in (
            *("preset", "hidden_dropout", "attention_dropout", "initializer_range"),
            *("dtype", "attention", "remat"),
        )
    } | {"seed", "optimizer.recipe", "optimizer.first_moment"}
    expected = {
        RunConfig: {f"data.{key.name}" for key in fields(DataConfig)}
        - {"data.store", "data.stores"}  # compared by digests and proportions
        | {"new_tokens"},
        FinetuneConfig: {
            *("task", "data.length", "head.kind", "head.features", "head.lstm_layers")
        },
    }
    for kind, own in expected.items():
        policies = resume_policies(kind)
        assert {key for key, policy in policies.items() if policy == "fixed"} == shared | own
        assert set(policies.values()) == {"fixed", "print", "silent"}
