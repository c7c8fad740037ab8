"""Message and exit code of a command without memory, disk or standard streams."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from bert_jax.runtime import entry_point
from support.commands import ROOT, refused


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate output buffer."), RuntimeError("can't start new thread")],
)
def test_no_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """If Python receives the error; the runtime of XLA often ends the process itself."""

    def hungry(_: Sequence[str]) -> None:
        raise error

    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    with pytest.raises(SystemExit, match="1"):
        entry_point.run(hungry, [])
    for number, handler in handlers.items():
        signal.signal(number, handler)
    errors = capsys.readouterr().err
    assert errors.startswith(f"bert-jax: {error}; free memory")
    assert errors.count("\n") == 1


def test_a_full_disk_is_one_line_with_the_remedy() -> None:
    script = """from pathlib import Path
from bert_jax.runtime import entry_point
entry_point.run(lambda _: Path("/dev/full").write_text("x", "utf-8"), [])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    refused(result, 1, "No space left on device; make room and run the same command again")


def test_an_event_loop_without_file_descriptors_prints_no_traceback() -> None:
    script = """import asyncio, gc, os, resource
from contextlib import suppress
from bert_jax.training import orbax_repairs
orbax_repairs.ignore_late_failures()
most = max(map(int, os.listdir("/proc/self/fd"))) + 1
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
with suppress(OSError):
    asyncio.new_event_loop()
gc.collect()
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("streams", ["2>/dev/full", "<&- >&- 2>&-", "2>&-", ">&-"])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("raise BadInputError('why')", 78),
        ("raise OSError(5, 'why')", 1),
        ("say('a line')", 0),
        # A file with the descriptor of a closed stream would receive the messages.
        ("sys.exit(open('/dev/null').fileno() > 2)", 1),
    ],
)
def test_the_exit_code_does_not_depend_on_the_streams(
    streams: str, command: str, code: int
) -> None:
    script = f"""import sys
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime import entry_point
def run(_):
    {command}
entry_point.run(run, [])
"""
    shell = ["sh", "-c", f'exec "$0" -c "$1" {streams}', sys.executable, script]
    assert subprocess.run(shell, cwd=ROOT, check=False).returncode == code
