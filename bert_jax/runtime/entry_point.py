"""The entry point of all programs: errors become one line and the documented exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

from bert_jax.runtime.errors import BadInputError, UserError, is_lost_process, one_line
from bert_jax.runtime.paths import failures_explained
from bert_jax.runtime.signals import disregard, end_at_once, take_over

# Errors of the file system that a restart does not fix -> exit code.
_PERMANENT = {
    errno.EACCES: BadInputError.exit_code,
    errno.EPERM: BadInputError.exit_code,
    errno.EROFS: BadInputError.exit_code,
    errno.ENOENT: BadInputError.exit_code,
    errno.EEXIST: BadInputError.exit_code,
    errno.ENOTDIR: BadInputError.exit_code,
    errno.EISDIR: BadInputError.exit_code,
    errno.ENAMETOOLONG: BadInputError.exit_code,
}

_EXIT_TIMEOUT = 10.0  # seconds; a failed process waits at most this long for its peers

Main = Callable[[Sequence[str]], None]


def run(main: Main, argv: Sequence[str] | None = None) -> None:
    """Call a command with its arguments and exit with the documented code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale such as C has few characters
            stream.reconfigure(errors="backslashreplace")
    take_over(end_at_once)
    try:
        with failures_explained():
            main([argument for argument in argv if argument != "--debug"])
    except BrokenPipeError:
        # The reader of the output has ended (`… | head`); Python would print an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _limit_exit_time(1)
        sys.exit(1)
    except Exception as error:
        line, code = _message_and_code(error)
        _limit_exit_time(code)
        if not line:
            raise
        if debug:
            traceback.print_exc()
        _write_stderr(f"bert-jax: {line}\n")
        sys.exit(code)
    finally:
        disregard()
        _write_stderr("")


def _open_streams() -> None:
    """Open closed standard streams; otherwise the next file would receive their output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _write_stderr(text: str) -> None:
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
    except OSError:
        # Python would retry at exit, and change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _message_and_code(error: Exception) -> tuple[str, int]:
    """Return message and exit code; the message is empty for a bug."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; make room and run the same command again" if full else ""
        return os_error_line(error) + remedy, _PERMANENT.get(error.errno or 0, UserError.exit_code)
    text = str(error)
    if isinstance(error, MemoryError) or "can't start new thread" in text:
        cause = one_line(text or "no memory")
        remedy = "free memory, or use a machine with more, and run the same command again"
        return f"{cause}; {remedy}", UserError.exit_code
    if is_lost_process(error):
        cause = "another process of this job has ended or cannot be reached; see its log"
        remedy = "restart all processes to resume from the newest checkpoint"
        return f"{cause}, and {remedy} ({one_line(text)})", UserError.exit_code
    return "", UserError.exit_code


def _limit_exit_time(code: int) -> None:
    """End a process of a failed job soon with `code`, even if its peers do not end.

    JAX would wait for them for five minutes; they may be dead, or waiting for this process.
    """
    jax = sys.modules.get("jax")  # importing it would take a second
    if jax is not None and jax.distributed.is_initialized():
        timer = threading.Timer(_EXIT_TIMEOUT, os._exit, (code,))
        timer.daemon = True
        timer.start()


def os_error_line(error: OSError) -> str:
    """Return the message of an error of the file system."""
    file = f"{error.filename}: " if error.filename else ""
    return one_line(f"{file}{error.strerror or error}")
