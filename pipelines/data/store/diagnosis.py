"""Signs that a corpus is not what it was read as, found while it is tokenized.

Each block counts them; `warnings` turns the counts of some or all blocks into lines with numbers
and remedies.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.data.sources.corpora import Corpus
from pipelines.data.sources.text import TextFiles
from pipelines.data.sources.wrapping import is_wrapped
from pipelines.data.tokenizers.letter_marks import marked_words, marks_warning
from pipelines.data.tokenizers.tokenizer import Tokenizer, WordPieceTokenizer

KEY = "signs"

_SAMPLED_DOCUMENTS, _SAMPLED_LETTERS = 300, 20_000
# Fractions from which a sign is reported.
_MOST = 0.5
_UNKNOWN = 0.01
_DUPLICATES = 0.2
# A script with fewer pieces of two letters or more is spelled letter by letter.
_MIN_PIECES = 100
_MIN_SCRIPT = 0.2
# Their words have no spaces and their pieces are single characters.
_SYLLABIC = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}


@dataclass
class Signs:
    """Counts of one block.

    Attributes:
        documents: Documents that were tokenized.
        single_sentence: Those with one sentence.
        single_line: Those with one line.
        sample: The lines of the first documents.
    """

    documents: int = 0
    single_sentence: int = 0
    single_line: int = 0
    sample: list[list[str]] = field(default_factory=list)

    def add(self, lines: list[str], sentences: int) -> None:
        """Count a document."""
        self.documents += 1
        self.single_line += len(lines) == 1
        self.single_sentence += sentences == 1
        if len(self.sample) < _SAMPLED_DOCUMENTS:
            self.sample.append(lines)

    def record(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        text = " ".join(line for lines in self.sample for line in lines)[:_SAMPLED_LETTERS]
        return {
            "documents": self.documents,
            "single_sentence": self.single_sentence,
            "single_line": self.single_line,
            "wrapped": is_wrapped(self.sample),
            "scripts": dict(_scripts(text)),
            "marked_words": marked_words(text),
        }


def warnings(records: dict[str, dict[str, Any]], corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    """Describe what looks wrong in some or all blocks; `records` are keyed by their names."""
    lines = []
    for number, source in enumerate(corpus.sources):
        blocks = [x for name, x in records.items() if name.startswith(f"{number:02}-")]
        signs = [block[KEY] for block in blocks if KEY in block]
        documents = sum(sign["documents"] for sign in signs)
        if documents:
            lines += [
                f"{source.spec}: {line}"
                for line in (
                    *_structure(signs, documents, source.scheme),
                    *_vocabulary(blocks, signs, tokenizer),
                )
            ]
    return lines


def warnings_of_copies(counts: dict[str, int]) -> list[str]:
    """Describe that many documents of a finished store were copies; `counts` are the ledger's."""
    fraction = counts["duplicates"] / max(1, counts["read"])
    if fraction <= _DUPLICATES:
        return []
    return [
        f"{fraction:.0%} of the documents are copies and were dropped; check that no file is read"
        " twice, or keep them with --keep-duplicates"
    ]


def _structure(signs: list[dict[str, Any]], documents: int, scheme: str) -> Iterable[str]:
    single = sum(sign["single_sentence"] for sign in signs) / documents
    lines = sum(sign["single_line"] for sign in signs) / documents
    wrapped = sum(sign["wrapped"] for sign in signs)
    remedy = "join rows of one document with a key (#FIELD@KEY)"
    if scheme == TextFiles.scheme:
        remedy = "read a file as one document with files:GLOB"
    if single > _MOST:
        yield pairs_warning(single, remedy)
    elif lines > _MOST and scheme == TextFiles.scheme:
        yield (
            f"{lines:.0%} of {documents:,} documents have a single line, because blank lines"
            f" separate documents; if they separate paragraphs here, {remedy}"
        )
    if wrapped > _MOST * len(signs):
        yield (
            "the lines look cut at a certain width, so sentences are torn; join the lines of each"
            " document with text:GLOB#join, or, if a file is a document, read files:GLOB"
        )


def pairs_warning(single: float, remedy: str) -> str:
    """Describe that most documents have a single sentence."""
    return (
        f"{single:.0%} of the documents have a single sentence, which no sentence can follow, so"
        f" next sentence prediction has little to learn; {remedy}, or pre-train with data.objective"
        " mlm"
    )


def pairs_warnings(document_offsets: np.ndarray) -> list[str]:
    """Describe a store whose documents have mostly one sentence; int64 [documents + 1]."""
    single = float((np.diff(document_offsets) == 1).mean()) if len(document_offsets) > 1 else 0.0
    remedy = "prepare the corpus again with files:GLOB or a key (#FIELD@KEY)"
    return [pairs_warning(single, remedy)] if single > _MOST else []


def _vocabulary(
    blocks: list[dict[str, Any]], signs: list[dict[str, Any]], tokenizer: Tokenizer
) -> Iterable[str]:
    splits = [split for block in blocks for split in block["splits"].values()]
    tokens = sum(split["tokens"] for split in splits)
    unknown = sum(split["unknown"] for split in splits)
    scripts: Counter[str] = Counter()
    for sign in signs:
        scripts.update(sign["scripts"])
    total = scripts.total()
    pieces = _pieces_of_scripts(tokenizer) if total else Counter()
    for script, count in scripts.most_common():
        if count > _MIN_SCRIPT * total and pieces[script] < _MIN_PIECES < tokenizer.vocab_size:
            yield (
                f"{count / total:.0%} of the letters are {script.capitalize()}, for which the"
                f" vocabulary has {pieces[script]:,} words and parts of words; use a tokenizer for"
                " this language (bert-jax train-tokenizer)"
            )
    if isinstance(tokenizer, WordPieceTokenizer) and tokenizer.strip_accents:
        words, marked, examples = zip(
            # Blocks of earlier versions have no such count.
            *(sign.get("marked_words", (0, 0, "")) for sign in signs),
            strict=True,
        )
        line = marks_warning(sum(words), sum(marked), next(filter(None, examples), ""))
        if line:
            yield line
    if unknown > _UNKNOWN * tokens:
        yield (
            f"{unknown / tokens:.1%} of the tokens are [UNK]; use a tokenizer for this text"
            " (bert-jax train-tokenizer)"
        )


def _pieces_of_scripts(tokenizer: Tokenizer) -> Counter[str]:
    """Count the pieces of each script that spell more than a letter."""
    counts: Counter[str] = Counter()
    for token in range(tokenizer.vocab_size):
        letters = [c for c in tokenizer.spelled(token) if c.isalpha()]
        if letters:
            script = _script(letters[-1])
            counts[script] += len(letters) > 1 or script in _SYLLABIC
    return counts


def _scripts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for character, count in Counter(filter(str.isalpha, text)).items():
        counts[_script(character)] += count
    return counts


def _script(letter: str) -> str:
    """Return the first word of the letter's Unicode name, which is its script."""
    return unicodedata.name(letter, "UNNAMED").split(" ", 1)[0].split("-", 1)[0]
