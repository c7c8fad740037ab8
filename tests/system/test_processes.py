"""Jobs of two processes, connected by the coordination service of JAX."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training import metrics
from bert_jax.training.batch import FIELDS
from bert_jax.training.partitioner import Partitioner
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.pretraining import pretrain
from support.commands import command, inspected, refused, run_process, start, write_config
from support.jobs import assert_same_curve, start_two, wait_for_all
from support.ports import free_address
from support.waiting import wait_until

# Prints the restored state of this process and all tokens of three global batches.
WITNESS = """
import json, sys
from dataclasses import replace
from functools import partial
from pathlib import Path
import jax
from jax.experimental import multihost_utils
from bert_jax.runtime import distributed
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.checksums import digest
from bert_jax.training.state import init_state
from bert_jax.training.step import Steps
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.settings import run_config

config = run_config(["--config", sys.argv[1]])
partitioner = Partitioner(distributed.join())
steps = Steps.of(config)
make = partial(init_state, config.model, steps.optimizer, config.seed)
checkpoints = Checkpoints(Path(config.run_dir))
state, meta = checkpoints.restore(partitioner.abstract_state(make), lambda meta: None)
data = PretrainingData(Store(Path(config.data.store)), config)
rows = partitioner.rows(config.train.batch_size)
tokens = []
for batch in data.batches(0, 3, rows):
    arrays = partitioner.shard_batch(batch.arrays)
    token_ids = multihost_utils.process_allgather(arrays["token_ids"], tiled=True)
    tokens.append(token_ids.tolist())
output = {"step": meta.step, "digest": digest(state.params), "devices": jax.device_count()}
print(json.dumps(output | {"rows": [rows.start, rows.stop], "tokens": tokens}))
"""


def wait_for_first_step(run: Path, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: any("loss" in line for line in metrics.read(run)), process)


def test_two_processes_train_as_one_process_does(
    config_base: RunConfig, trained: Path, two_processes: Path, tmp_path: Path
) -> None:
    assert_same_curve(trained, two_processes)
    pretrain(replace(config_base, run_dir=str(tmp_path / "run")), Partitioner(devices()))
    assert_same_curve(tmp_path / "run", two_processes)


@pytest.mark.full
def test_a_sharded_run_equals_that_of_one_process_and_resumes_there(
    config_base: RunConfig, two_processes: Path, tmp_path: Path
) -> None:
    """Repeat the last updates of a run of two processes on one process without sharding."""
    run = tmp_path / "run"
    config = write_config(replace(config_base, run_dir=str(run)), tmp_path)
    results = wait_for_all(
        start_two(command("pretrain", "--config", config, "--parallel.shard_state", "true"))
    )
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert_same_curve(run, two_processes)
    shutil.rmtree(run / "checkpoints" / "20")
    result = run_process("pretrain", "--config", config, devices=2)
    assert result.returncode == 0, result.stderr
    assert "resuming at step 15" in result.stderr
    assert_same_curve(run, two_processes)


@pytest.mark.full
def test_a_checkpoint_of_eight_devices_and_the_batches_are_the_same_for_both(
    config_base: RunConfig, tmp_path: Path, store: Store
) -> None:
    short = replace(config_base, run_dir=str(tmp_path / "run"), phases=(Phase(length=32, steps=3),))
    config = write_config(short, tmp_path)
    result = run_process("pretrain", "--config", config, devices=8)
    assert result.returncode == 0, result.stderr
    expected = inspected(tmp_path / "run")
    results = wait_for_all(start_two([sys.executable, "-c", WITNESS, str(config)], devices=4))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    # The last line: Gloo prints before it.
    witnesses = [json.loads(result.stdout.splitlines()[-1]) for result in results]
    data = PretrainingData(store, short)
    for witness in witnesses:
        assert (witness["devices"], witness["step"]) == (8, 3)
        assert witness["digest"] == expected["digest"]
        for step, tokens in enumerate(witness["tokens"]):
            assert np.array_equal(tokens, data.batch_at(step).arrays["token_ids"])
    assert [witness["rows"] for witness in witnesses] == [[0, 4], [4, 8]]
    assert set(data.batch_at(0).arrays) == set(FIELDS)


def test_sigterm_to_one_process_stops_both_at_the_same_step(
    config_base: RunConfig, two_processes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = write_config(replace(config_base, run_dir=str(run)), tmp_path)
    # JAX checks for signals once a second; save and evaluation after each step take longer.
    slow = ("--checkpoint.every", "1", "--train.eval_every", "1", "--train.eval_batches", "0")
    processes = start_two(command("pretrain", "--config", config, *slow))
    wait_for_first_step(run, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    results = wait_for_all(processes)
    assert [result.returncode for result in results] == [75, 75], results[0].stderr
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 0 < saved < config_base.steps
    results = wait_for_all(start_two(command("pretrain", "--config", config)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert f"resuming at step {saved}" in results[0].stderr
    assert inspected(run)["digest"] == inspected(two_processes)["digest"]


@pytest.mark.full
def test_two_processes_fall_back_to_the_same_checkpoint(
    config_base: RunConfig, two_processes: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(two_processes, tmp_path / "run"))
    newest = (run / "checkpoints" / "20" / "params").rglob("*")
    largest = max(newest, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 16
    largest.write_bytes(content)
    config = write_config(replace(config_base, run_dir=str(run)), tmp_path)
    results = wait_for_all(start_two(command("pretrain", "--config", config)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert "checkpoint 20 is damaged" in results[0].stderr
    assert "resuming at step 15" in results[0].stderr
    assert inspected(run)["digest"] == inspected(two_processes)["digest"]


@pytest.mark.full
def test_pmap_is_refused_on_two_processes(config_base: RunConfig, tmp_path: Path) -> None:
    config = write_config(replace(config_base, run_dir=str(tmp_path / "run")), tmp_path)
    for result in wait_for_all(
        start_two(command("pretrain", "--config", config, "--parallel.mapping", "pmap"))
    ):
        refused(result, 78, "pmap", "one process", "parallel.mapping: jit")
    assert not (tmp_path / "run").exists()


def test_wrong_job_variables_are_refused(config_base: RunConfig, tmp_path: Path) -> None:
    config = write_config(replace(config_base, run_dir=str(tmp_path / "run")), tmp_path)
    wrong = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "two"}
    refused(run_process("pretrain", "--config", config, **wrong), 78, "JAX_NUM_PROCESSES=two")


@pytest.mark.full
def test_sigint_to_one_before_the_first_step_stops_both_after_it(
    config_base: RunConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = write_config(replace(config_base, run_dir=str(run)), tmp_path)
    processes = start_two(command("pretrain", "--config", config))
    wait_until((run / "tokenizer").exists, processes[0])  # then both processes are connected
    processes[1].send_signal(signal.SIGINT)
    results = wait_for_all(processes)
    assert [result.returncode for result in results] == [75, 75], results[0].stderr
    assert "is saved in" in results[0].stderr.splitlines()[-1]
    assert (run / "checkpoints").is_dir()


@pytest.mark.full
def test_a_second_sigint_ends_one_process_at_once(config_base: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(replace(config_base, run_dir=str(run)), tmp_path)
    processes = start_two(command("pretrain", "--config", config), devices=1)
    wait_until((run / "tokenizer").exists, processes[0])
    for _ in range(2):
        processes[0].send_signal(signal.SIGINT)
        time.sleep(0.1)
    results = wait_for_all(processes)
    assert results[0].returncode == 75
    messages = results[0].stderr.splitlines()[-2:]
    assert "send again to quit this process without saving" in messages[0]
    assert messages[1] == "bert-jax: SIGINT received; run the same command again to restart"


@pytest.mark.full
def test_sigterm_before_the_first_step_ends_a_job_of_one_process(
    config_base: RunConfig, tmp_path: Path
) -> None:
    """As on a Cloud TPU VM, where JAX also handles SIGTERM."""
    run = tmp_path / "run"
    config = write_config(replace(config_base, run_dir=str(run)), tmp_path)
    job = {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
    job["JAX_COORDINATOR_ADDRESS"] = free_address()
    process = start("pretrain", "--config", config, **job)
    wait_until(run.exists, process)
    process.send_signal(signal.SIGTERM)
    (result,) = wait_for_all([process])
    assert result.returncode == 75
    assert not list((run / "checkpoints").glob("[0-9]*"))


@pytest.mark.full
def test_an_address_in_use_is_reported(config_base: RunConfig, tmp_path: Path) -> None:
    config = write_config(replace(config_base, run_dir=str(tmp_path / "run")), tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        job = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}
        result = run_process("pretrain", "--config", config, **job)
    refused(result, 1, address, "already in use; end the process that uses the port")


@pytest.mark.full
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_waits_for_peers_handles_signals(
    number: int, config_base: RunConfig, tmp_path: Path
) -> None:
    """JAX waits up to five minutes, and the waiting thread cannot run signal handlers."""
    config = write_config(replace(config_base, run_dir=str(tmp_path / "run")), tmp_path)
    processes = start_two(command("pretrain", "--config", config))
    processes[1 - number].kill()
    waiting = processes[number]
    assert waiting.stderr is not None
    assert "waiting for the other processes" in waiting.stderr.readline()
    time.sleep(1)
    start_time = time.monotonic()
    waiting.send_signal(signal.SIGINT)
    result = wait_for_all(processes)[number]
    assert time.monotonic() - start_time < 30
    assert (result.returncode, result.stderr.count("\n")) == (75, 1), result.stderr


def assert_first_ends(processes: list[subprocess.Popen[str]], words: str) -> None:
    """Assert that the first of two processes ends soon by itself, with these words."""
    start_time = time.monotonic()
    result, _ = wait_for_all(processes)
    assert time.monotonic() - start_time < 60
    refused(result, 1)
    assert result.stderr.splitlines()[-1].startswith(f"bert-jax: {words}")


@pytest.mark.full
def test_missing_peers_are_reported(config_base: RunConfig, tmp_path: Path) -> None:
    config = write_config(replace(config_base, run_dir=str(tmp_path / "run")), tmp_path)
    script = (
        "from bert_jax.runtime import distributed; from pipelines.commands import cli;"
        " distributed.JOIN_TIMEOUT = 3; cli.main()"
    )
    processes = start_two([sys.executable, "-c", script, "pretrain", "--config", str(config)])
    processes[1].kill()
    assert_first_ends(processes, "the other processes of this job did not join within 3")


@pytest.mark.full
@pytest.mark.parametrize("every", ["1", "1000"])
def test_a_process_whose_peer_died_ends_with_a_message(
    every: str, config_base: RunConfig, tmp_path: Path
) -> None:
    """Without this, JAX waits five minutes at the end, and Orbax twenty in a save."""
    run = tmp_path / "run"
    config = write_config(replace(config_base, run_dir=str(run)), tmp_path)
    options = ("--train.eval_every", "1", "--checkpoint.every", every)
    processes = start_two(command("pretrain", "--config", config, *options), devices=1)
    wait_for_first_step(run, processes[0])
    processes[1].kill()
    assert_first_ends(processes, "another process of this job has ended")
