"""Initial values of a corpus in jobs of several processes, and after kill -9."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.config.run import RunConfig
from bert_jax.training.checkpoint import newest_meta
from pipelines.folders import INITIAL_VALUES
from support.commands import command, refused, run_process, start, write_config
from support.jobs import assert_same_curve, start_two, wait_for_all
from support.waiting import wait_until

pytestmark = pytest.mark.full


def from_corpus(config: RunConfig, folder: Path, hidden_size: int = 32) -> Path:
    """Write the config of a run that starts from its store; return it."""
    folder.mkdir()
    model = replace(config.model, initialization="corpus", hidden_size=hidden_size)
    return write_config(replace(config, model=model, run_dir=str(folder / "run")), folder)


def digest_of(run: Path) -> str:
    meta = newest_meta(run)
    assert meta is not None
    return meta.data[INITIAL_VALUES]


def test_one_process_computes_the_values_of_a_job_and_a_killed_run_keeps_them(
    config_base: RunConfig, tmp_path: Path
) -> None:
    config = from_corpus(config_base, tmp_path / "one")
    assert run_process("pretrain", "--config", config).returncode == 0
    one = tmp_path / "one/run"

    config = from_corpus(config_base, tmp_path / "two")
    results = wait_for_all(start_two(command("pretrain", "--config", config)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert digest_of(tmp_path / "two/run") == digest_of(one)
    assert_same_curve(tmp_path / "two/run", one)

    config = from_corpus(config_base, tmp_path / "killed")
    killed = tmp_path / "killed/run"
    process = start("pretrain", "--config", config)
    wait_until((killed / INITIAL_VALUES).is_file, process)
    process.kill()
    process.communicate()
    written = (killed / INITIAL_VALUES).stat().st_mtime_ns
    assert newest_meta(killed) is None
    assert run_process("pretrain", "--config", config).returncode == 0
    assert (killed / INITIAL_VALUES).stat().st_mtime_ns == written
    assert digest_of(killed) == digest_of(one)
    assert_same_curve(killed, one)


def test_a_job_ends_when_its_first_process_cannot_compute_the_values(
    config_base: RunConfig, tmp_path: Path
) -> None:
    config = from_corpus(config_base, tmp_path / "wide", hidden_size=512)
    first, second = wait_for_all(start_two(command("pretrain", "--config", config)))
    refused(first, 78, "too small")
    assert second.returncode != 0
