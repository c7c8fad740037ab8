"""The log of a run, and the computation of MFU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from bert_jax.config.accelerators import accelerators, peak_flops
from bert_jax.config.model import ModelConfig
from bert_jax.config.run import RunConfig
from bert_jax.nn.encoder import define, init_params
from bert_jax.runtime.distributed import devices
from bert_jax.runtime.errors import BadInputError, NotFiniteError
from bert_jax.runtime.trackers import TENSORBOARD
from bert_jax.training import metrics
from bert_jax.training.experiment import Experiment, pretraining
from bert_jax.training.flops import training_flops
from bert_jax.training.metrics import MetricsLog
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import parameter_count
from bert_jax.training.step import forward
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store

NAMES = {
    "loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "grad_norm", "learning_rate",
}  # fmt: skip


def values(loss: float = 1.0) -> dict[str, jax.Array]:
    return {name: jnp.float32(loss) for name in NAMES}


def experiment(config: RunConfig) -> Experiment:
    return pretraining(config, Partitioner(devices()[:1]), cast(Any, None))


@pytest.fixture
def log(config: RunConfig, tmp_path: Path) -> Iterator[MetricsLog]:
    with closing(MetricsLog(tmp_path, experiment(config), 0, 0, 0.0)) as opened:
        yield opened


def test_lines_are_written_a_few_updates_later(log: MetricsLog, tmp_path: Path) -> None:
    for step in range(1, 11):
        log.push(step, values(step), tokens=100, sequences=8)
        assert len(metrics.read(tmp_path)) == max(0, step - metrics.IN_FLIGHT)
    log.settle()
    lines = metrics.read(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["loss"] for line in lines] == [float(step) for step in range(1, 11)]
    assert [line["tokens"] for line in lines] == [100 * step for step in range(1, 11)]
    assert all(line["tokens_per_second"] > 0 for line in lines)
    assert "loss 10.000" in log.note()


def test_only_every_nth_update_is_written(config: RunConfig, tmp_path: Path) -> None:
    config = replace(config, train=replace(config.train, log_every=4))
    with closing(MetricsLog(tmp_path, experiment(config), 0, 0, 0.0)) as log:
        for step in range(1, 11):
            log.push(step, values(), tokens=10, sequences=8)
        log.settle()
    assert [(line["step"], line["tokens"]) for line in metrics.read(tmp_path)] == [(4, 40), (8, 80)]


def test_time_and_tokens_continue_after_a_restart_without_lost_steps(
    log: MetricsLog, config: RunConfig, tmp_path: Path
) -> None:
    for step in range(1, 6):
        log.push(step, values(), tokens=10, sequences=8)
    log.settle()
    log.write(5, {"eval_loss": 2.0})
    log.close()
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    with closing(MetricsLog(tmp_path, experiment(config), 3, 30, 500.0)) as again:
        assert [line["step"] for line in metrics.read(tmp_path)] == [1, 2, 3]
        again.push(4, values(), tokens=10, sequences=8)
        again.settle()
    last = metrics.read(tmp_path)[-1]
    assert (last["step"], last["tokens"]) == (4, 40)
    assert 500 < last["seconds"] < 560
    assert all(json.loads(line) for line in (tmp_path / metrics.FILE).read_text().splitlines())


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_value_that_is_not_finite_is_an_error(
    config: RunConfig, tmp_path: Path, name: str
) -> None:
    """Also between two log lines, before anything is saved."""
    config = replace(config, train=replace(config.train, log_every=100))
    with closing(MetricsLog(tmp_path, experiment(config), 0, 0, 0.0)) as log:
        log.push(1, values(), 10, 8)
        log.settle()
        log.push(2, values() | {name: jnp.float32("nan")}, 10, 8)
        with pytest.raises(BadInputError, match=f"{name} became nan between step 1 and step 2"):
            log.settle()


def events(run: Path) -> Iterator[Event]:
    """Yield the events of all files: records of a length, its checksum, an event, its checksum."""
    for path in sorted((run / TENSORBOARD).glob("events*")):
        content = path.read_bytes()
        while content:
            end = 12 + int.from_bytes(content[:8], "little")
            yield Event.FromString(content[12:end])
            content = content[end + 4 :]


def test_rewinding_drops_lost_steps_and_keeps_the_time(log: MetricsLog, tmp_path: Path) -> None:
    for step in range(1, 8):
        log.push(step, values(), tokens=10, sequences=8)
    log.rewind(3, 30)  # the newest values are not read
    assert [line["step"] for line in metrics.read(tmp_path)] == [1, 2, 3]
    log.push(4, values(), tokens=10, sequences=8)
    log.push(5, {}, tokens=0, sequences=0)
    log.settle()
    *_, before, last, skipped = metrics.read(tmp_path)
    assert (last["step"], last["tokens"]) == (4, 40)
    assert last["seconds"] >= before["seconds"]
    assert skipped == {"step": 5, "skipped": 1}
    log.close()
    written = list(events(tmp_path))
    # TensorBoard drops older points from these steps on.
    starts = [event.step for event in written if event.HasField("session_log")]
    assert starts == [1, 4]
    tags = {
        event.summary.value[0].tag for event in written if event.step == 5 and event.summary.value
    }
    assert tags == {"skipped"}


@pytest.mark.parametrize(("mode", "expected"), [("stop", 0), ("rollback", 3)])
def test_a_rollback_reports_the_exact_step(
    config: RunConfig, tmp_path: Path, mode: Any, expected: int
) -> None:
    """With rollback, every update is checked, not only those that are logged."""
    config = replace(config, train=replace(config.train, log_every=100, on_nonfinite=mode))
    with closing(MetricsLog(tmp_path, experiment(config), 0, 0, 0.0)) as log:
        bad_step = 0
        try:
            for step in range(1, 10):
                log.push(step, values(float("nan") if step == 3 else 1.0), 10, 8)
        except NotFiniteError as error:
            bad_step = error.step
            assert step == 3 + metrics.IN_FLIGHT
        assert bad_step == expected


def test_a_phase_change_does_not_distort_the_speed(log: MetricsLog, tmp_path: Path) -> None:
    log.push(1, values(), tokens=1_000_000, sequences=8)
    log.settle()
    log.restart_clock()
    log.push(2, values(), tokens=10, sequences=8)
    log.settle()
    first, second = metrics.read(tmp_path)
    assert second["tokens_per_second"] < first["tokens_per_second"] / 10


@pytest.mark.parametrize(("preset", "length"), [("bert-base", 128), ("bert-large", 512)])
def test_flops_are_six_per_parameter_and_token_and_attention(preset: str, length: int) -> None:
    config = ModelConfig(preset=preset, vocab_size=30_522).resolved()
    params = jax.eval_shape(partial(init_params, config, 0))
    matrices = parameter_count(params["bert"]["layers"])
    attention = 12 * config.layers * config.hidden_size * length
    flops = training_flops(config, tokens=256 * length, sequences=256, predictions=0)
    expected = 256 * length * (6 * matrices + attention)
    assert flops == pytest.approx(expected, rel=0.01)


def test_flops_are_those_that_the_compiler_counts(still: RunConfig, store: Store) -> None:
    """Forward and backward pass of a full batch, on a network in which matmuls dominate."""
    # One layer, because the compiler counts the body of a loop once.
    sizes = {"hidden_size": 128, "feed_forward_size": 512, "vocab_size": 2000, "layers": 1}
    model = replace(still.model, **sizes)
    config = replace(still, model=model)
    batch = jax.tree.map(jnp.array, PretrainingData(store, config).batch_at(0).arrays)
    params = init_params(config.model, 0)

    def loss(params: object) -> jax.Array:
        logits = forward(define(config.model), params, batch, None)  # type: ignore[arg-type]
        return logits.mlm.sum() + logits.nsp.sum()

    counted = jax.jit(jax.grad(loss)).lower(params).compile().cost_analysis()["flops"]
    ours = training_flops(config.model, tokens=8 * 32, sequences=8, predictions=8 * 5)
    assert ours == pytest.approx(counted, rel=0.15)


def test_peaks_are_plausible() -> None:
    kinds = [kind for accelerator in accelerators() for kind in accelerator.device_kinds]
    assert peak_flops("TPU v4") == 275e12
    assert peak_flops("TPU v3") == 61.5e12
    assert peak_flops("cpu") is None
    assert all(20e12 < (peak_flops(kind) or 0) < 3e15 for kind in kinds)


def test_damaged_lines_are_removed_and_reported(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ['{"step": 1, "loss": 2}', '{"stfp": 2}', "[3]", '{"step": "4"}', "\xff", "[" * 9999]
    (tmp_path / metrics.FILE).write_text("\n".join([*lines, ""]), "latin-1")
    with closing(MetricsLog(tmp_path, experiment(config), 5, 0, 0.0)):
        assert [line["step"] for line in metrics.read(tmp_path)] == [1]
    assert "had damaged lines; removed 5" in capsys.readouterr().err
    (tmp_path / metrics.FILE).unlink()
    with closing(MetricsLog(tmp_path, experiment(config), 5, 0, 0.0)):
        assert "is missing; starting a new one at step 6" in capsys.readouterr().err


def test_malformed_lines_are_ignored(tmp_path: Path) -> None:
    lines = [
        "3",
        "{}",
        '{"step": []}',
        '{"step": "1"}',
        "[" * 100_000,
        '{"loss": 2}',
        '{"step": 1}',
    ]
    text = "\n".join(lines).encode() + b"\n\xff{\n"
    (tmp_path / metrics.FILE).write_bytes(text)
    assert metrics.read(tmp_path) == [{"step": 1}]


def test_a_pipe_instead_of_the_log_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / metrics.FILE)
    assert metrics.read(tmp_path) == []
    with pytest.raises(BadInputError, match="pipe or device"):
        metrics.open_truncated(tmp_path / metrics.FILE, 0)
