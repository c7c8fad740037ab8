"""Jobs of two real processes, connected by the coordination service of JAX."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bert_jax.training import metrics
from support.commands import ROOT, environment
from support.ports import free_address


def start_two(*commands: list[str], devices: int = 2) -> list[subprocess.Popen[str]]:
    """Start a command as two processes of one job."""
    coordinator = free_address()
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(
                devices,
                JAX_COORDINATOR_ADDRESS=coordinator,
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(number),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, command in enumerate(commands * 2)
    ]


def wait_for_all(
    processes: list[subprocess.Popen[str]],
) -> list[subprocess.CompletedProcess[str]]:
    """Wait for the end of the processes of a job."""
    results = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=180)
        finally:
            process.kill()
        results.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return results


def assert_same_curve(run: Path, expected: Path) -> None:
    """Assert that two runs logged the same steps with close losses."""
    for line, expected_line in zip(metrics.read(run), metrics.read(expected), strict=True):
        assert line["step"] == expected_line["step"]
        assert line.get("tokens") == expected_line.get("tokens")
        for name in {"loss", "grad_norm", "eval_mlm_loss"} & line.keys():
            assert line[name] == pytest.approx(expected_line[name], rel=1e-5), line["step"]
