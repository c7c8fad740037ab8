"""Runs commands inside the test process, as if each had its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

import pytest

from bert_jax.runtime import console, distributed
from pipelines.commands import cli

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    arguments: tuple[str | Path, ...], devices: int, folder: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run ``bert-jax ARGUMENTS`` on the first of the emulated devices; see `commands.invoke`."""
    with ExitStack() as stack:
        out, err = (stack.enter_context(TemporaryFile("w+", encoding="utf-8")) for _ in range(2))
        stack.enter_context(chdir(folder))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in variables.items():
            patch.setenv(name, value)
        stack.enter_context(_restored(devices, list(map(str, arguments))))
        stack.enter_context(_redirected(out, err))
        code = _exit_code()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        written = [_content(file) for file in (out, err)]
    return subprocess.CompletedProcess(arguments, code, *written)


def _exit_code() -> int:
    try:
        cli.main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)  # noqa: T201
            return 1
        return end.code or 0
    except (pytest.fail.Exception, pytest.exit.Exception):  # such as the time limit of a test
        raise
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _restored(devices: int, arguments: list[str]) -> Iterator[None]:
    """Restore the state of the process that a command changes."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    all_devices = distributed.devices
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # as in the processes of users
        patch.setattr(sys, "argv", ["bert-jax", *arguments])
        patch.setattr(distributed, "devices", lambda: all_devices()[:devices])
        patch.setattr(distributed, "_initialize", lambda silence: None)  # joins no job
        patch.setattr(console, "_quiet", False)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                if handler is not None:  # None: not set from Python
                    signal.signal(number, handler)


@contextmanager
def _redirected(out: TextIO, err: TextIO) -> Iterator[None]:
    """Redirect both streams and their descriptors to files."""
    with pytest.MonkeyPatch.context() as patch:
        originals = {number: os.dup(number) for number in (1, 2)}
        try:
            for number, file in ((1, out), (2, err)):
                os.dup2(file.fileno(), number)
            patch.setattr(sys, "stdout", open(1, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
            patch.setattr(sys, "stderr", open(2, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
            yield
        finally:
            for number, copy in originals.items():
                os.dup2(copy, number)
                os.close(copy)


def _content(file: TextIO) -> str:
    file.seek(0)
    return file.read()
