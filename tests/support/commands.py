"""Run bert-jax commands as users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from bert_jax.config.run import RunConfig
from pipelines.settings import to_yaml
from support import in_process, process_harness
from support.process_harness import Environment

ROOT = Path(__file__).parents[2]


def environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """Return the environment of a process with so many emulated devices."""
    return {**os.environ, "XLA_FLAGS": process_harness.xla_flags(os.environ, devices), **variables}


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of ``bert-jax ARGUMENTS``; warnings are errors."""
    return [sys.executable, "-W", "error", "-m", "pipelines.commands.cli", *map(str, arguments)]


def invoke(
    *arguments: str | Path, devices: int = 1, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, where imports and compiled programs are ready.

    For tests of the effects of a command; use `run_process` to test processes. Only variables that
    the command reads at run time have an effect.
    """
    return in_process.run(arguments, devices, folder, variables)


def run_process(
    *arguments: str | Path, devices: int = 1, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process to its end.

    With variables, which JAX may read during its import, this starts a new interpreter (three
    seconds). Without, it forks a process in which all imports are done (half a second). Both trace
    and compile everything again.
    """
    if not variables:
        return _forked(arguments, devices, folder)
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(devices, **variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _forked(
    arguments: tuple[str | Path, ...], devices: int, folder: Path
) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as files:
        forked = Environment(dict(os.environ), partial(os.chdir, folder), devices)
        process = process_harness.run(Path(files), *arguments, environment=forked)
        stdout = process.stdout_file.read_text("utf-8")
        return subprocess.CompletedProcess(arguments, process.wait(), stdout, process.stderr)


def run_python(
    script: str, *arguments: str | Path, warnings: str = "default", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script, which may import the product and `support`, in a new interpreter."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", warnings, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env=environment(**({"PYTHONPATH": path} | variables)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Assert that a command ended with `code` and a readable last line that contains `words`."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("bert-jax: ")
    for word in words:
        assert word in last


def start(*arguments: str | Path, devices: int = 1, **variables: str) -> subprocess.Popen[str]:
    """Start a command that runs while the test continues."""
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(devices, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a file system in memory with `options` (see mount(8)); skip the test if not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_config(config: RunConfig, folder: Path) -> Path:
    """Write a config to a file for ``--config``."""
    file = folder / "config.yaml"
    file.write_text(to_yaml(config), "utf-8")
    return file


def inspected(model: Path | str) -> dict[str, Any]:
    """Return the output of ``bert-jax inspect MODEL --json``."""
    # Bucket clients stay in a process, with the emulator address of the test that created them.
    run = run_process if str(model).startswith("gs://") else invoke
    result = run("inspect", model, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
