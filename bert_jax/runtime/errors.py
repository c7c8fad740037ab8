"""Failures that a user or a scheduler can act on; each class has its exit code.

Any other exception is a bug: it ends with exit code 1 and prints its traceback.
"""

from __future__ import annotations

import unicodedata
from typing import Any

# Characters at the start of a long message, which name the file, and at its end, which contain
# the remedy. The middle is cut.
_START, _END = 260, 220
# They are invisible, but belong to the spelling of words in many scripts.
_JOINERS = "\u200c\u200d"


class UserError(Exception):
    """Reported as one line. The text names the file, key or value, and the remedy."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the text as one printable line; it may quote untrusted files."""
        return one_line(super().__str__())


class BadArgumentsError(UserError):
    """The command line is wrong."""

    exit_code = 64


class DeviceUnavailableError(UserError):
    """No accelerator could be opened, or another process uses it or a folder."""

    exit_code = 69


class UnreachableError(UserError):
    """Something on the network does not respond; trying again later may work."""


class HungError(UserError):
    """No step was done within the limit; running the command again may help."""

    exit_code = 70


class PreemptedError(UserError):
    """The run received a request to stop; it is saved, and the same command resumes it."""

    exit_code = 75


class BadInputError(UserError):
    """The config or the data is wrong; running the command again cannot help."""

    exit_code = 78


# Parts of the errors of collective operations, on CPUs and GPUs, after another process ended.
_LOST = ("Gloo", "remote process exited")


def is_lost_process(error: BaseException) -> bool:
    """Return True if another process of the job ended or cannot be reached."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)


def printable(text: str) -> str:
    """Escape the characters of `text` that control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if _is_printable(c) else ascii(c)[1:-1] for c in text)


def _is_printable(character: str) -> bool:
    spaces = unicodedata.category(character) == "Zs"
    return character.isprintable() or spaces or character in _JOINERS


def one_line(text: str) -> str:
    """Return `text` as one printable line, cut in the middle if it is long."""
    line = printable(" ".join(text.split()))
    if len(line) <= _START + _END:
        return line
    return f"{line[:_START]} … {line[-_END:]}"


class NotFiniteError(BadInputError):
    """A loss, a gradient or the state is infinite or NaN.

    Attributes:
        problem: The value that is not finite.
        step: Step after which it was detected.
    """

    def __init__(self, problem: str, step: int, since: int | None = None, tried: str = "") -> None:
        """Build the message.

        Args:
            problem: The value that is not finite.
            step: Step after which it was detected.
            since: Last step that is known to be finite.
            tried: Sentence about the rollbacks before.
        """
        self.problem, self.step = problem, step
        when = f"at step {step}" if since is None else f"between step {since} and step {step}"
        super().__init__(
            f"{problem} {when}; this state was not saved. {tried}Lower optimizer.learning_rate or"
            " increase optimizer.warmup_steps, and run the command again to resume from the last"
            " checkpoint"
        )


def at_least(section: str, config: Any, low: int, names: str) -> None:
    """Check that the keys `names`, separated by spaces, are at least `low`."""
    for name in names.split():
        value = getattr(config, name)
        if not value >= low:
            raise BadInputError(f"{section}.{name} must be at least {low}, not {value}")


def fraction(section: str, config: Any, names: str) -> None:
    """Check that the keys `names`, separated by spaces, are in [0, 1)."""
    for name in names.split():
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise BadInputError(f"{section}.{name} must be in [0, 1), not {value}")
