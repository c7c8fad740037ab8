"""Options that the drill and fuzzing share."""

from __future__ import annotations

import argparse
import difflib
import random
import sys
from collections.abc import Sequence


def parser_of(program: str, description: str | None, kind: str) -> argparse.ArgumentParser:
    """Return a parser with ``--seed`` and ``--only``; `kind` names what can be selected."""
    parser = argparse.ArgumentParser(program, description=description)
    parser.add_argument("--seed", type=int, help="seed of all random choices (default: a new one)")
    selection = f"every {kind} with these words in its name; may be repeated"
    parser.add_argument("--only", action="append", metavar="WORDS", default=[], help=selection)
    return parser


def seed_of(options: argparse.Namespace) -> int:
    """Return the seed of the command line, or a new one."""
    return random.SystemRandom().randrange(10**6) if options.seed is None else int(options.seed)


def select(names: Sequence[str], words: Sequence[str], kind: str) -> list[str]:
    """Return the names that contain some of these words, or all; exit if none does."""
    selected = [n for n in names if not words or any(w.lower() in n.lower() for w in words)]
    if not selected:
        nearest = difflib.get_close_matches(words[0], names, 1, 0)
        sys.exit(f"no {kind} has {words[0]!r} in its name; the nearest is {nearest[0]!r}")
    return selected
