"""Deterministic text from a small grammar."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from pathlib import Path

from pipelines.data.sources.decompression import zstd

VOCABULARY = 70  # tokens; about as many as the grammar supports

NAMES = "the captain|a sailor|the old cook|my sister|the doctor|a child|the farmer|our teacher"
VERBS = "finds|carries|paints|sells|forgets|repairs|describes|hides"
THINGS = "a wooden boat|the heavy box|some bread|the broken clock|a small lamp|the blue door"
PLACES = "| in the harbour| near the river| behind the house| at the market|| on the hill|"


def story(rng: random.Random, sentences: int) -> list[str]:
    """Return sentences about one person."""
    name = rng.choice(NAMES.split("|"))
    return [
        f"{name.capitalize()} {rng.choice(VERBS.split('|'))} {rng.choice(THINGS.split('|'))}"
        f"{rng.choice(PLACES.split('|'))}."
        for _ in range(sentences)
    ]


def write_corpus(path: Path, documents: int, seed: int = 0) -> Path:
    """Write a text corpus: one sentence per line, a blank line between documents."""
    rng = random.Random(seed)  # noqa: S311
    texts = ["\n".join(story(rng, rng.randint(1, 14))) for _ in range(documents)]
    path.write_text("\n\n".join(texts) + "\n", "utf-8")
    return path


def write_many(path: Path, documents: int) -> Path:
    """Write a text of several blocks: about 600 bytes per document, a sentence per line."""
    rng = random.Random(1)  # noqa: S311
    texts = ["\n".join(story(rng, 14)) for _ in range(200)]
    numbered = (f"{number} told.\n{texts[number % 200]}" for number in range(documents))
    path.write_text("\n\n".join(numbered) + "\n", "utf-8")
    return path


def compressed(path: Path, suffix: str) -> Path:
    """Compress a file in two concatenated parts."""
    compress = {
        ".bz2": bz2.compress,
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".zst": zstd.compress,
    }[suffix]
    content = path.read_bytes()
    target = path.with_name(path.name + suffix)
    target.write_bytes(compress(content[:999]) + compress(content[999:]))
    return target


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
