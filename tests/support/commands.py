"""Commands of ours, run as users run them."""

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
from support.process_harness import Circumstances

ROOT = Path(__file__).parents[2]


def environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """For a process of its own with so many emulated devices."""
    return {**os.environ, "XLA_FLAGS": process_harness.flags(os.environ, devices), **variables}


def command(*arguments: str | Path) -> list[str]:
    """`bert-jax ARGUMENTS` in this interpreter, warnings being errors."""
    return [sys.executable, "-W", "error", "-m", "pipelines.commands.cli", *map(str, arguments)]


def invoke(
    *arguments: str | Path, devices: int = 1, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command in this process, which has imported and compiled what it needs.

    For tests of what a command does; `run_process` is for tests of processes. Variables are those
    that are read when a command runs.
    """
    return in_process.run(arguments, devices, folder, variables)


def run_process(
    *arguments: str | Path, devices: int = 1, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own to its end.

    With variables, which JAX may read when it is imported, in a new interpreter (three seconds);
    else in one that is forked from a process where all imports are done (half a second). Both
    trace and compile everything again.
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
    with TemporaryDirectory() as notes:
        under = Circumstances(dict(os.environ), partial(os.chdir, folder), devices)
        life = process_harness.run(Path(notes), *arguments, under=under)
        return subprocess.CompletedProcess(
            arguments, life.end(), life.out.read_text("utf-8"), life.said
        )


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Asserts that a command ended with `code` and one readable last line that has `words`."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("bert-jax: ")
    for word in words:
        assert word in last


def start(*arguments: str | Path, devices: int = 1, **variables: str) -> subprocess.Popen[str]:
    """Starts a command that goes on beside the test."""
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
    """A file system of its own, mounted with `options` (see mount(8)), where the user may mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_config(config: RunConfig, folder: Path) -> Path:
    """The config as a file for ``--config``."""
    file = folder / "config.yaml"
    file.write_text(to_yaml(config), "utf-8")
    return file


def inspected(model: Path | str) -> dict[str, Any]:
    """What ``bert-jax inspect MODEL --json`` prints."""
    # Clients of buckets are kept in a process, with the address of the emulator that they found.
    run = run_process if str(model).startswith("gs://") else invoke
    result = run("inspect", model, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
