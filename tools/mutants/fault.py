"""A fault: its description and its insertion into a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Fault:
    """A wrong change of one file of the product.

    Attributes:
        name: Short, in kebab case; unique.
        file: Path relative to the root of the tree.
        old: Text that occurs exactly once in the file.
        new: Replaces `old`.
        description: Effect on a user.
        core: True for the core of pre-training: model, step, order of the data, masking, pairs,
            resuming, preflight.
        hint: Stems of test files to run before all others, such as "test_step".
    """

    name: str
    file: str
    old: str
    new: str
    description: str
    core: bool = False
    hint: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Return the name of the module; empty if the file is not Python."""
        path = Path(self.file)
        return ".".join(path.with_suffix("").parts) if path.suffix == ".py" else ""

    def applied(self, text: str) -> str:
        """Return `text` with the fault.

        Raises:
            ValueError: `old` does not occur exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: {self.file} has the old text {count} times, not once")
        return text.replace(self.old, self.new)


def problems(faults: Sequence[Fault], tree: Path) -> list[str]:
    """Return the mismatches of catalog and tree, a line each."""
    messages = []
    names = [fault.name for fault in faults]
    messages += [f"{name}: two faults have this name" for name in names if names.count(name) > 1]
    for fault in faults:
        if not _NAME.fullmatch(fault.name):
            messages.append(f"{fault.name}: the name is not in kebab case")
        if fault.old == fault.new:
            messages.append(f"{fault.name}: the change is empty")
        try:
            mutated = fault.applied((tree / fault.file).read_text("utf-8"))
            if fault.module:
                compile(mutated, fault.file, "exec", dont_inherit=True)
        except SyntaxError as error:
            messages.append(f"{fault.name}: {fault.file} does not compile: {error}")
        except (OSError, ValueError) as error:
            messages.append(str(error))
    return messages
