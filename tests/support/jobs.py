"""Jobs of two real processes, joined by JAX's coordination service."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bert_jax.training import metrics
from support.commands import ROOT, environment
from support.ports import free_address


def both(*commands: list[str], devices: int = 2) -> list[subprocess.Popen[str]]:
    """Starts the same command as two processes of one job."""
    first = free_address()
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(
                devices,
                JAX_COORDINATOR_ADDRESS=first,
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(number),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, command in enumerate(commands * 2)
    ]


def ended(processes: list[subprocess.Popen[str]]) -> list[subprocess.CompletedProcess[str]]:
    results = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=180)
        finally:
            process.kill()
        results.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return results


def same_curve(run: Path, other: Path) -> None:
    for one, two in zip(metrics.read(run), metrics.read(other), strict=True):
        assert one["step"] == two["step"]
        assert one.get("tokens") == two.get("tokens")
        for name in {"loss", "grad_norm", "eval_mlm_loss"} & one.keys():
            assert one[name] == pytest.approx(two[name], rel=1e-5), one["step"]
