"""Warnings of corpora that are not what they were read as, on generated text."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import BadInputError
from pipelines.data.batches.pairs import Objective
from pipelines.data.store.diagnosis import pairs_warnings
from pipelines.data.store.prepare import prepare
from pipelines.pretraining import _open_store
from support.corpora import write_corpus

STORY = "The old cook of the ship carries some bread to the captain, who repairs the broken clock. "
TEXTS = {
    "single sentence": "A sailor sells the heavy box.\n\nMy sister paints a small lamp.\n\n",
    "single line": "A child hides. The cook hides.\n\nThe doctor forgets. A sailor sells.\n\n",
    "#join": "\n".join(textwrap.wrap(STORY * 20, 70)),
    "[UNK]": "zzz qqq.\nIt is.\n\n",
}


def warnings(spec: str, tokenizer: Path, out: Path, *, deduplicate: bool = True) -> str:
    prepare([spec], tokenizer, out, 0.0, deduplicate=deduplicate)
    card = json.loads((out / "card.json").read_text("utf-8"))
    return "\n".join(card["warnings"])


def test_usual_text_has_no_warning(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    assert warnings(f"text:{corpus}", tokenizer_dir, tmp_path / "store") == ""


@pytest.mark.parametrize("sign", TEXTS)
def test_what_is_wrong(sign: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{TEXTS[sign]}\n\n{TEXTS[sign]}", "utf-8")
    spec = f"text:{tmp_path}/a.txt"
    assert sign in warnings(spec, tokenizer_dir, tmp_path / "store", deduplicate=False)


def test_the_script_of_the_text_should_be_that_of_the_vocabulary(tmp_path: Path) -> None:
    """Letters of the script alone are no words."""
    cyrillic = [chr(code) for code in range(0x430, 0x450)]
    letters = [*cyrillic, *(f"##{letter}" for letter in cyrillic)]
    words = [f"word{number}" for number in range(200)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *words]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    sentence = "\u043e\u043d \u0441\u043f\u0438\u0442.\n"
    (tmp_path / "a.txt").write_text(f"{sentence * 3}\n{sentence * 2}", "utf-8")
    lines = warnings(f"text:{tmp_path}/a.txt", tmp_path, tmp_path / "store")
    assert "100% of the letters are Cyrillic" in lines


def test_copies(tokenizer_dir: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "a.txt", 30)
    write_corpus(tmp_path / "b.txt", 30)
    assert "50%" in warnings(f"text:{tmp_path}/?.txt", tokenizer_dir, tmp_path / "store")
    prepare([f"text:{tmp_path}/a.txt"], tokenizer_dir, tmp_path / "once", 0.0)
    twice, once = (
        json.loads((tmp_path / name / "card.json").read_text("utf-8"))["characters_per_token"]
        for name in ("store", "once")
    )
    assert twice == once


def test_documents_of_one_sentence_have_no_pairs() -> None:
    assert pairs_warnings(np.arange(10)) != []
    assert pairs_warnings(np.arange(10) * 3) == []
    assert pairs_warnings(np.zeros(1, np.int64)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "1 of 30 documents remain .*29 are copies.*--keep-duplicates"),
        ({"held_out": 0.9999}, "0 of 30 .*29 are copies.*1 are held out.*--held-out"),
        ({"min_characters": 500}, "0 of 30 .*30 are shorter than --min-characters"),
    ],
)
def test_a_corpus_of_which_nothing_remains(
    options: dict[str, float], words: str, tokenizer_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("A sailor sells. The cook hides.\n\n" * 30)
    arguments: dict[str, Any] = {"held_out": 0.0, **options}
    held_out = arguments.pop("held_out")
    with pytest.raises(BadInputError, match=words):
        prepare(
            [f"text:{tmp_path}/a.txt"], tokenizer_dir, tmp_path / "store", held_out, **arguments
        )


@pytest.mark.parametrize(("objective", "count"), [("nsp", 1), ("sop", 1), ("mlm", 0)])
def test_pre_training_on_single_sentences_is_reported(
    objective: Objective,
    count: int,
    config: RunConfig,
    tokenizer_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "\n\n".join(f"A sailor sells {number} boxes." for number in range(20))
    (tmp_path / "a.txt").write_text(text)
    prepare([f"text:{tmp_path}/a.txt"], tokenizer_dir, tmp_path / "store", 0.0)
    capsys.readouterr()
    _open_store(
        f"{tmp_path}/store", replace(config, data=replace(config.data, objective=objective))
    )
    assert capsys.readouterr().err.count("have a single sentence") == count
