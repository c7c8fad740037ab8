"""The end of a program: failures become one line and the documented exit code."""

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

# Failures of the file system that starting again does not mend -> exit code.
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

_FAREWELL = 10.0  # seconds in which all processes of a job that fails together have ended

Main = Callable[[Sequence[str]], None]


def run(main: Main, argv: Sequence[str] | None = None) -> None:
    """Calls a command with its arguments and exits with the documented code."""
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
        # The reader of our output went away (`… | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave_soon(1)
        sys.exit(1)
    except Exception as error:
        line, code = _last_words(error)
        _leave_soon(code)
        if not line:
            raise
        if debug:
            traceback.print_exc()
        _tell(f"bert-jax: {line}\n")
        sys.exit(code)
    finally:
        disregard()
        _tell("")


def _open_streams() -> None:
    """Opens those that were closed: the next file would get their number, and what is said."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _tell(text: str) -> None:
    """Writes to standard error; where that cannot be, the exit code says it alone."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
    except OSError:
        # Python would try again at exit, and change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _last_words(error: Exception) -> tuple[str, int]:
    """What is said of a failure, and the exit code; nothing of a bug."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; make room and run the same command again" if full else ""
        return line_of(error) + remedy, _PERMANENT.get(error.errno or 0, UserError.exit_code)
    words = str(error)
    if isinstance(error, MemoryError) or "can't start new thread" in words:
        why = one_line(words or "no memory")
        remedy = "give it more, or ask for less, and run the same command again"
        return f"{why}; {remedy}", UserError.exit_code
    if is_lost_process(error):
        why = "another process of this job has ended or cannot be reached; its log says why"
        remedy = "start all of them again, they go on from the newest checkpoint"
        return f"{why}; {remedy} ({one_line(words)})", UserError.exit_code
    return "", UserError.exit_code


def _leave_soon(code: int) -> None:
    """Ends a process that failed with `code`, also if the others of its job do not come to an end.

    JAX would wait for them for five minutes, and they may be no more, or wait for this one.
    """
    jax = sys.modules.get("jax")  # which takes a second to import
    if jax is not None and jax.distributed.is_initialized():
        end = threading.Timer(_FAREWELL, os._exit, (code,))
        end.daemon = True
        end.start()


def line_of(error: OSError) -> str:
    """What is said of a failure of the file system."""
    where = f"{error.filename}: " if error.filename else ""
    return one_line(f"{where}{error.strerror or error}")
