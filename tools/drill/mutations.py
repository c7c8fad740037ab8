"""Damage of files: accidental changes and malicious content."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Change = Callable[[Path, Random], str]  # changes a file; returns a description

DEEP = 100_000
HUGE = (0, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 1e308, float("inf"), float("-inf"), float("nan"))
_SCREEN = "\x1b[2J\x1b]0;owned\x07\u202e"  # clears a terminal, renames it, reverses text
_PATHS = ("../../canary", "../canary.npy", "/etc/passwd", "/dev/zero", "gs://x/../y", "~/x", "a\0b")
_WORDS = ("", " ", "true", "null", "\ufeff", "\ud800", _SCREEN, "9" * 5000, "x" * 100_000, "{}%s")
# Texts that json.dumps does not produce.
_JSON = ("[" * DEEP, "[" * 500 + "]" * 500, "9" * 5000, "1e999", "-0", '"\\ud800"')
_YAML = (
    "!!python/object/apply:os.system ['touch owned']",
    "!!python/name:os.system",
    "!!int ''",
    "!!bool x",
    "!!timestamp x",
    "!!binary '='",
    "2001-99-99",
    "&a [*a]",
    "? [a, b]\n: c",
    "9" * 5000,
)
_BYTES = (
    b"\0",
    b"\0" * 4096,
    b"\xff",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\r",
    b"\n\n",
    b"\t",
    b'"',
    b"{}",
    b"[" * DEEP,
    b"- " * 2000,
    b"x" * 1_000_000,
    b" " * 100_000,
    b"NaN",
    b"-1e999",
    b"9" * 5000,
    _SCREEN.encode(),
    b"!!python/object/apply:os.system ['touch owned']\n",
    b"\x80\x04\x95cos\nsystem\n(S'touch owned'\ntR.",
)


def damage(path: Path, rng: Random, special: tuple[Change, ...] = ()) -> str:
    """Make one change to a file; return a description."""
    choices: list[tuple[float, Change]] = [
        (4, _change_bytes),
        (1, _replace_file),
        (1, _replace_text),
    ]
    if path.suffix in (".json", ".jsonl", ".yaml"):
        choices.append((6, _change_values))
    choices += [(6 / len(special), change) for change in special]
    weights, changes = zip(*choices, strict=True)
    return rng.choices(changes, weights)[0](path, rng)


def _change_bytes(path: Path, rng: Random) -> str:
    data = path.read_bytes()
    change = rng.choice((_flipped, _cut, _inserted, _repeated, _moved, _renumbered, _unlined))
    path.write_bytes(change(data, rng))
    return change.__name__.removeprefix("_")


def _flipped(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _inserted(data: bytes, rng: Random) -> bytes:
    offset = rng.randint(0, len(data))
    return data[:offset] + rng.choice(_BYTES) + data[offset:]


def _repeated(data: bytes, rng: Random) -> bytes:
    start, end = sorted(rng.randint(0, len(data)) for _ in range(2))
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def _moved(data: bytes, rng: Random) -> bytes:
    a, b, c = sorted(rng.randint(0, len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _renumbered(data: bytes, rng: Random) -> bytes:
    numbers = list(re.finditer(rb"\d+", data))
    if not numbers:
        return _flipped(data, rng)
    number = rng.choice(numbers)
    return data[: number.start()] + str(rng.choice(HUGE)).encode() + data[number.end() :]


def _unlined(data: bytes, rng: Random) -> bytes:
    lines = data.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def _replace_text(path: Path, rng: Random) -> str:
    texts: dict[str, bytes] = {
        "empty": b"",
        "bytes at random": rng.randbytes(rng.choice((1, 100, 10_000))),
        "a deep list": b"[" * DEEP + b"]" * DEEP,
        "a deep object": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "a long line": b"a" * 5_000_000,
        "many lines": b"a\n" * 200_000,
        "a number": b"1",
        "UTF-16": path.read_bytes().decode("latin-1").encode("utf-16"),
        "aliases of aliases": _laughs("[{}]"),
        "merges of merges": _laughs("{{<<: [{}]}}"),
        "a pickle": b"\x80\x04\x95cos\nsystem\n(S'touch owned'\ntR.",
    }
    name = rng.choice(list(texts))
    path.write_bytes(texts[name])
    return name


def _laughs(form: str) -> bytes:
    """Return a few lines of YAML that expand to 9 ** 12 values."""
    first = form.format("") if "<<" not in form else "{run_dir: x}"
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {form.format(', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, 13)]
    return "\n".join([*lines, "model: *a12", "run_dir: *a12"]).encode()


def _replace_file(path: Path, rng: Random) -> str:
    """Replace a file with something that is not a regular file, or with nothing."""
    replacements: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to nothing": lambda: path.symlink_to("absent"),
        "a link to a device": lambda: path.symlink_to(rng.choice(("/dev/zero", "/dev/null"))),
        "a link to a folder": lambda: path.symlink_to("/proc"),
    }
    name = rng.choice(list(replacements))
    path.unlink()
    replacements[name]()
    return f"{name} instead"


def _change_values(path: Path, rng: Random) -> str:
    """Change a value or key in JSON, in a line of JSON Lines or in YAML that is JSON."""
    lines = path.read_text("utf-8").split("\n") if path.suffix == ".jsonl" else []
    filled = [number for number, line in enumerate(lines) if line]
    number = rng.choice(filled) if filled else 0
    value = json.loads(lines[number] if lines else path.read_text("utf-8"))
    changed, change = changed_value(value, rng, path.suffix == ".yaml")
    if lines:
        lines[number] = changed
        changed = "\n".join(lines)
    path.write_bytes(changed.encode("utf-8", "surrogatepass"))
    return change


def changed_value(value: Any, rng: Random, yaml: bool = False) -> tuple[str, str]:
    """Return JSON of `value` with one node changed, and a description of the change."""
    root = [value]
    container, key = rng.choice(_nodes(root))
    kind = rng.choice(("value", "value", "value", "key", "loss", "text"))
    ascii_only = rng.random() < 0.5
    if kind == "loss" and isinstance(container, dict):
        del container[key]
        return json.dumps(value), f"{key!r:.40} removed"
    if kind == "key" and isinstance(container, dict):
        container[rng.choice((*_WORDS, *_PATHS, "__class__", "base"))] = container.pop(key)
        return json.dumps(value, ensure_ascii=ascii_only), f"another key for {key!r:.40}"
    if kind == "text":
        new = rng.choice((*_JSON, *(_YAML if yaml else ())))
        container[key] = placeholder = "\ue000"
        return json.dumps(root[0]).replace(
            json.dumps(placeholder), new
        ), f"{key!r:.40} is {new:.40}"
    container[key] = new = random_value(rng)
    return json.dumps(root[0], ensure_ascii=ascii_only), f"{key!r:.40} is {new!r:.60}"


def _nodes(root: list[Any]) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value in nested lists and objects."""
    nodes: list[tuple[Any, Any]] = []
    containers: list[Any] = [root]
    while containers:
        container = containers.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            nodes.append((container, key))
            if isinstance(value, (dict, list)):
                containers.append(value)
    return nodes


def random_value(rng: Random, depth: int = 0) -> Any:
    """Return a random JSON value, often an unusual one."""
    kind = rng.randrange(6 if depth < 3 else 4)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice(HUGE)
    if kind == 2:
        return rng.choice((*_WORDS, *_PATHS))
    if kind == 3:
        return rng.choice((rng.randint(-5, 5), rng.random(), 10**4299, [], {}))
    inner = [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == 4:
        return inner
    return {rng.choice((*_WORDS[:7], "a")): value for value in inner}


def copy_files(source: Path, target: Path) -> None:
    """Replace `target` with a copy of `source`."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
