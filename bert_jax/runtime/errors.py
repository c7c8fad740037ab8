"""Failures that a user or a scheduler can act on; each class carries its exit code.

Anything else that is raised is a bug, ends with exit code 1 and shows its traceback.
"""

from __future__ import annotations

import unicodedata
from typing import Any

# Characters of a message: of a longer one the beginning, which names the file, and the end, which
# says what to do, are shown.
_BEGINNING, _END = 260, 220
# They look like nothing, and are part of the spelling of words in many scripts.
_JOINERS = "\u200c\u200d"


class UserError(Exception):
    """Reported as one line. The text names the file, key or value, and the remedy."""

    exit_code = 1

    def __str__(self) -> str:
        """The text, whatever was quoted in it from files of strangers."""
        return one_line(super().__str__())


class BadArgumentsError(UserError):
    """The command line is wrong."""

    exit_code = 64


class DeviceUnavailableError(UserError):
    """No accelerator could be opened, or another process holds it, or a folder."""

    exit_code = 69


class UnreachableError(UserError):
    """Something on the network does not answer; the same may work later."""


class HungError(UserError):
    """No step was done within the limit; starting again may help."""

    exit_code = 70


class PreemptedError(UserError):
    """The machine asked the run to end; its state is saved and the same command resumes it."""

    exit_code = 75


class BadInputError(UserError):
    """The config or the data is wrong; starting again cannot help."""

    exit_code = 78


# What collective operations between processors, and between GPUs, say of a process that is gone.
_LOST = ("Gloo", "remote process exited")


def tells_of_lost_process(error: BaseException) -> bool:
    """Whether it came about because another process of the job ended or cannot be reached."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)


def printable(text: str) -> str:
    """`text` without characters that do something to a terminal: they are spelled out."""
    if text.isprintable():
        return text
    return "".join(c if _is_shown(c) else ascii(c)[1:-1] for c in text)


def _is_shown(character: str) -> bool:
    spaces = unicodedata.category(character) == "Zs"
    return character.isprintable() or spaces or character in _JOINERS


def one_line(text: str) -> str:
    """`text` as a line that a person can read."""
    line = printable(" ".join(text.split()))
    if len(line) <= _BEGINNING + _END:
        return line
    return f"{line[:_BEGINNING]} … {line[-_END:]}"


class NotFiniteError(BadInputError):
    """A loss, a gradient or the state is infinite or NaN.

    Attributes:
        found: What it is.
        step: After which it was found.
    """

    def __init__(self, found: str, step: int, since: int | None = None, tried: str = "") -> None:
        """Of `found`, sound until step `since`, after rollbacks that `tried` tells of."""
        self.found, self.step = found, step
        when = f"at step {step}" if since is None else f"between step {since} and step {step}"
        super().__init__(
            f"{found} {when}; nothing of it was saved. {tried}Lower optimizer.learning_rate or"
            " lengthen optimizer.warmup_steps; the run goes on from its last checkpoint"
        )


def at_least(section: str, config: Any, low: int, names: str) -> None:
    """Refuses a config whose keys `names`, separated by spaces, are not all `low` or more."""
    for name in names.split():
        value = getattr(config, name)
        if not value >= low:
            raise BadInputError(f"{section}.{name} must be at least {low}, not {value}")


def share(section: str, config: Any, names: str) -> None:
    """Refuses a config whose keys `names` are not all in [0, 1)."""
    for name in names.split():
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise BadInputError(f"{section}.{name} must be in [0, 1), not {value}")
