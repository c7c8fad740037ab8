"""The benchmark's data, made of real collections, and the tasks that read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.classification import Classification
from pipelines.tasks.multiple_choice import MultipleChoice
from pipelines.tasks.ranking import PassageRanking
from pipelines.tasks.task import Columns
from support.commands import ROOT, environment

DATA = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))
NAMES = ("train", "validation", "test")

pytestmark = pytest.mark.skipif(
    not (DATA / "trec").is_dir() or not (DATA / "pretrain").is_dir(),
    reason=f"{DATA} has no trec/ and pretrain/: the collections are not on this machine",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    script = [sys.executable, "benchmarks/task_data.py", str(DATA), str(folder)]
    subprocess.run(script, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), check=True)
    return folder


@pytest.fixture(scope="module")
def real_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("vocab")
    shutil.copy(DATA / "vocab" / "bert-base-uncased-vocab.txt", folder / "vocab.txt")
    return tokenizers.load(folder)


@pytest.mark.parametrize(
    ("name", "sizes", "classes"),
    [
        ("polarity", (8530, 1066, 1066), ["negative", "positive"]),
        ("subjectivity", (8000, 1000, 1000), ["objective", "subjective"]),
        ("trec", (4834, 537, 500), ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]),
    ],
)
def test_single_sentences_are_split_without_overlap(
    made: Path, name: str, sizes: tuple[int, ...], classes: list[str]
) -> None:
    task = Classification()
    splits = [task.read(str(made / name / f"{n}.csv"), Columns(), labeled=True) for n in NAMES]
    assert tuple(map(len, splits)) == sizes
    assert len({e.text for split in splits for e in split}) == sum(sizes)
    for split in splits:
        assert task.classes(split) == classes


def test_pairs_contain_the_answer_or_do_not(made: Path, real_tokenizer: Tokenizer) -> None:
    task = Classification()
    columns = Columns(id="id")
    splits = [task.read(str(made / "qnli" / f"{n}.csv"), columns, labeled=True) for n in NAMES]
    assert not {e.text for e in splits[0]} & {e.text for e in splits[2]}
    for split in splits:
        assert set(Counter(e.label for e in split).values()) == {len(split) / 2}
    arrays = task.features(splits[1], real_tokenizer, 64, ["0", "1"]).arrays
    assert arrays["token_ids"].shape == (len(splits[1]), 64)
    # [CLS] question [SEP] sentence [SEP], and nothing behind it.
    assert ((arrays["token_ids"] == real_tokenizer.sep_id).sum(axis=1) == 2).all()
    assert ((arrays["token_ids"] > 0) == arrays["segment_ids"]).all()
    last = arrays["segment_ids"].sum(axis=1) - 1
    assert (arrays["token_type_ids"][np.arange(len(last)), last] == 1).all()


def test_candidates_compete_ten_by_ten_in_no_order(made: Path) -> None:
    candidates = PassageRanking().read(str(made / "ranking/test.jsonl"), Columns(), labeled=True)
    sizes = Counter(candidate.query_id for candidate in candidates)
    assert set(sizes.values()) == {10}
    relevant = np.array([candidate.label == "1" for candidate in candidates]).reshape(-1, 10)
    assert relevant.any(axis=1).all()
    assert relevant.mean(axis=0) == pytest.approx(np.full(10, relevant.mean()), abs=0.03)
    same = [{"label": "0", "probabilities": {"0": 0.5, "1": 0.5}} for _ in candidates]
    # One relevant sentence among ten at random: 0.293; some questions have several.
    assert PassageRanking().score(candidates, same, ["0", "1"])["mrr"] == pytest.approx(
        0.33, abs=0.02
    )


def test_the_right_ending_is_at_any_position_among_the_choices(
    made: Path, real_tokenizer: Tokenizer
) -> None:
    questions = MultipleChoice().read(str(made / "choice/test.jsonl"), Columns(), labeled=True)
    labels = np.bincount([question.label for question in questions], minlength=4)
    assert labels / len(questions) == pytest.approx(np.full(4, 0.25), abs=0.05)
    assert all(len(set(question.choices)) == 4 for question in questions)
    arrays = MultipleChoice().features(questions[:50], real_tokenizer, 96, ["score"]).arrays
    assert arrays["token_ids"].shape == (50, 4, 96)


def test_summaries_are_leads_of_other_articles_in_every_split(made: Path) -> None:
    leads = []
    for name in NAMES:
        text = (made / "summaries" / f"{name}.jsonl").read_text("utf-8")
        rows = [json.loads(line) for line in text.split("\n") if line]
        leads += [row["summary"] for row in rows]
        assert all(10 <= len(row["document"]) <= 40 for row in rows)
    assert len(set(leads)) == len(leads) == 3800
