"""For real tweets, sub-tokens and labeled positions are those of transformers' word_ids()."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.tokenizers.tokenizer import load
from pipelines.tasks.tagging.task import Tagging
from pipelines.tasks.task import Columns
from support.commands import ROOT

transformers = pytest.importorskip("transformers")

DATA = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))
FILES = ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")
LENGTH = 512
IGNORED = -100

pytestmark = pytest.mark.skipif(
    not all((DATA / "wnut17" / name).exists() for name in FILES) or not (DATA / "vocab").is_dir(),
    reason=f"{DATA} has no wnut17/ and vocab/: real text is not on this machine",
)


@pytest.mark.parametrize("kind", ["uncased", "cased"])
@pytest.mark.parametrize("file", FILES)
def test_first_sub_tokens_are_labelled_as_in_transformers(
    kind: str, file: str, tmp_path: Path
) -> None:
    vocabulary = (DATA / "vocab" / f"bert-base-{kind}-vocab.txt").read_bytes()
    (tmp_path / "vocab.txt").write_bytes(vocabulary)
    tokenizer = load(tmp_path)
    examples = Tagging().read(str(DATA / "wnut17" / file), Columns(), labeled=True)
    classes = Tagging().classes(examples)
    features = Tagging().features(examples, tokenizer, LENGTH, classes)
    assert features.examples.tolist() == list(range(len(examples)))  # all fit into a row

    theirs = transformers.BertTokenizer(
        vocab={piece: number for number, piece in enumerate(tokenizer.pieces)},
        do_lower_case=kind == "uncased",
    )
    encoded = theirs([e.tokens for e in examples], is_split_into_words=True)
    unknown = 0
    for row, example in enumerate(examples):
        arrays = {name: array[row] for name, array in features.arrays.items()}
        used = arrays["segment_ids"] > 0
        ids, words = arrays["token_ids"][used].tolist(), encoded.word_ids(row)
        # transformers gives no token to a word without known characters; here it is [UNK].
        aligned = {word for word in words if word is not None}
        missing = [number for number in range(len(example.tokens)) if number not in aligned]
        unknown += len(missing)
        heads = np.flatnonzero(arrays["weights"])
        assert len(heads) == len(example.tokens)
        for position in heads[missing][::-1]:
            assert ids.pop(position) == tokenizer.unk_id
        assert ids == encoded["input_ids"][row]
        expected = [
            IGNORED if word is None or word == before else classes.index((example.tags or [])[word])
            for before, word in zip([None, *words], words, strict=False)
        ]
        labels = np.where(arrays["weights"] > 0, arrays["labels"], IGNORED)[used]
        assert np.delete(labels, heads[missing]).tolist() == expected
    assert unknown <= 4  # variation selectors, which the uncased vocabulary strips as accents
