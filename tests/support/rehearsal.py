"""Runs ``bert-jax tpu local`` on emulated VMs with the XLA flags of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.commands import ROOT
from support.xla_flags import QUICKLY
from tpu.rehearsal.fake_vm import DEVICES

# Results depend on XLA flags in their last bits, and emulated VMs inherit no variables.
FLAGS = f"{QUICKLY} --xla_force_host_platform_device_count={DEVICES}"

_COMMAND = f"""
from pipelines.commands import cli
from tpu.rehearsal import local
emulated, flags = local.emulated, {{"XLA_FLAGS": "{FLAGS}"}}
local.emulated = lambda folder, variables: emulated(folder, variables | flags)
cli.main()
"""


def run(config: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Rehearse the run of a config to its end."""
    return subprocess.run(
        [sys.executable, "-c", _COMMAND, "tpu", "local", "--config", str(config), *options],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
