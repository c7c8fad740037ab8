"""Make the data of the fine-tuning benchmarks from public collections.

    python benchmarks/task_data.py DATA OUT

DATA contains the collections, each in the folder named below, as published by their authors. The
output is OUT/TASK/train, validation and test, .csv, .jsonl, .conll or .json, always with the same
bytes. No text is in two of the splits made here; where examples are cut from a longer text, the
splits consist of whole documents.

    polarity      sentence_polarity/rt-polarity.{pos,neg} (Pang & Lee 2005): 80/10/10%
    subjectivity  subjectivity/{quote,plot}.tok.gt9.5000 (Pang & Lee 2004): 80/10/10%
    trec          trec/{train,test}.txt (Li & Roth 2002), the six coarse classes; validation is a
                  tenth of train
    trec_labels   the same, with the coarse class and the fine one (DESC, DESC:manner) as two labels
    qnli          squad/train-subset-4000.json, a tenth of its paragraphs for validation; test:
                  500 paragraphs of squad/dev-v1.1.rebuilt.json. A question with the first sentence
                  of its paragraph that contains an answer (label 1), and with one that does not
                  (0). Unlike in GLUE, pairs with few common words are kept
    ranking       the same paragraphs. A question with ten sentences: all of its paragraph (at most
                  ten), and sentences of others without an answer; 1 = contains an answer
    squad         the same paragraphs of train; test is all of squad/dev-v1.1.rebuilt.json
    wnut17        wnut17/ unchanged (Derczynski et al. 2017)
    wikiann       wikiann/en (Pan et al. 2017) without the "en:" before each word
    choice        pretrain/wiki_books_01.txt.xz, articles only. A sentence, the one that follows it
                  in its paragraph, and three from other paragraphs of the article, as in SWAG: the
                  choices share a topic. At most two per article
    summaries     the same articles. The first 40 sentences after the lead paragraph; the lead (two
                  to six sentences) is their summary

A document is an article, not a chapter of a book, if its first sentence has a title of the list in
sources/wiki_books_01.tsv among its first words, followed by a form of "to be". About half of the
articles pass this check, and few chapters do.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.data.sources.documents import split_sentences

Rows = list[dict[str, Any]]
Splits = dict[str, Rows]

NAMES = ("train", "validation", "test")
SEED = 20
CANDIDATES, CHOICES = 10, 4
TEST_PARAGRAPHS = 500
ARTICLES = {"train": 3000, "validation": 400, "test": 400}
LEAD, BODY = (2, 6), (10, 40)  # least and most sentences
SENTENCE = (40, 250)  # least and most characters of a choice

_WNUT17 = ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")
_WIKIANN = ("train", "dev", "test")

sentences = partial(split_sentences, language="en")


def main(data: Path, out: Path) -> None:
    """Write all tasks."""
    tasks: dict[str, Splits] = {
        "polarity": _two_files(
            data / "sentence_polarity",
            {"positive": "rt-polarity.pos", "negative": "rt-polarity.neg"},
        ),
        "subjectivity": _two_files(
            data / "subjectivity",
            {"subjective": "quote.tok.gt9.5000", "objective": "plot.tok.gt9.5000"},
        ),
        "trec": _trec(data / "trec", lambda label: {"label": label.partition(":")[0]}),
        "trec_labels": _trec(
            data / "trec", lambda label: {"labels": [label.partition(":")[0], label]}
        ),
    }
    paragraphs = _paragraphs(data / "squad")
    tasks["qnli"] = {name: _questions(paragraphs[name]) for name in NAMES}
    tasks["ranking"] = {name: _candidates(paragraphs[name]) for name in NAMES}
    _squad(data / "squad", paragraphs, out / "squad")
    _tags(data / "wnut17", _WNUT17, out / "wnut17")
    _tags(data / "wikiann" / "en", _WIKIANN, out / "wikiann", prefix="en:")
    articles = _articles(data / "pretrain")
    tasks["choice"] = {name: _choices(articles[name]) for name in NAMES}
    tasks["summaries"] = {name: _summaries(articles[name]) for name in NAMES}
    for task, splits in tasks.items():
        (out / task).mkdir(parents=True, exist_ok=True)
        for name, rows in splits.items():
            nested = any(isinstance(value, list) for value in rows[0].values())
            _write(
                out / task / f"{name}.{'jsonl' if nested or 'query' in rows[0] else 'csv'}", rows
            )
            print(f"{task}/{name}: {len(rows):,}")


def _write(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def _two_files(folder: Path, files: dict[str, str]) -> Splits:
    label = {}
    for name, file in files.items():
        for line in (folder / file).read_text("utf-8").splitlines():
            label.setdefault(line.strip(), name)
    rows = [{"text": text, "label": name} for text, name in label.items() if text]
    return _cut(rows, 0.8, 0.9)


def _trec(folder: Path, labels: Callable[[str], dict[str, Any]]) -> Splits:
    read = {}
    for name in ("test", "train"):
        lines = (folder / f"{name}.txt").read_text("latin-1").splitlines()
        parts = [line.partition(" ") for line in lines]
        read[name] = {text.strip(): labels(label) for label, _, text in parts}
    fresh = [text for text in read["train"] if text not in read["test"]]
    train = _cut([{"text": text, **read["train"][text]} for text in fresh], 0.9, 1.0)
    test = [{"text": text, **label} for text, label in read["test"].items()]
    return train | {"test": test}


def _cut(items: list[Any], first: float, second: float) -> dict[str, list[Any]]:
    """Return the items in a random order, split into three at these fractions."""
    order = random.Random(SEED).sample(items, len(items))  # noqa: S311
    a, b = round(first * len(order)), round(second * len(order))
    return dict(zip(NAMES, (order[:a], order[a:b], order[b:]), strict=True))


def _paragraphs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    def load(name: str) -> list[dict[str, Any]]:
        articles = json.loads((folder / name).read_text("utf-8"))["data"]
        return [paragraph for article in articles for paragraph in article["paragraphs"]]

    parts = _cut(load("train-subset-4000.json"), 0.9, 1.0)
    test = random.Random(SEED).sample(load("dev-v1.1.rebuilt.json"), TEST_PARAGRAPHS)  # noqa: S311
    return parts | {"test": test}


def _squad(folder: Path, paragraphs: dict[str, list[dict[str, Any]]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in NAMES[:2]:
        data = [{"title": name, "paragraphs": paragraphs[name]}]
        text = json.dumps({"version": "1.1", "data": data}, ensure_ascii=False)
        (out / f"{name}.json").write_text(text, "utf-8")
    shutil.copyfile(folder / "dev-v1.1.rebuilt.json", out / "test.json")


def _tags(folder: Path, files: tuple[str, ...], out: Path, prefix: str = "") -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, file in zip(NAMES, files, strict=True):
        lines = (folder / file).read_text("utf-8").split("\n")
        text = "\n".join(line.removeprefix(prefix) for line in lines)
        (out / f"{name}.conll").write_text(text, "utf-8")


def _by_answer(paragraphs: list[dict[str, Any]]) -> Iterator[tuple[Any, list[str], list[str]]]:
    """Yield questions with the sentences of their paragraph with and without an answer."""
    for paragraph in paragraphs:
        texts = list(dict.fromkeys(sentences([paragraph["context"].replace("\n", " ")])))
        for question in paragraph["qas"]:
            answers = [answer["text"] for answer in question["answers"]]
            containing = [text for text in texts if any(answer in text for answer in answers)]
            if containing:  # else the answer crosses the end of a sentence
                yield question, containing, [text for text in texts if text not in containing]


def _questions(paragraphs: list[dict[str, Any]]) -> Rows:
    rng = random.Random(SEED)  # noqa: S311
    rows = [
        {"id": f"{question['id']}-{label}", "question": question["question"], "sentence": text,
         "label": label}
        for question, containing, others in _by_answer(paragraphs)
        if others
        for label, text in ((1, containing[0]), (0, rng.choice(others)))
    ]  # fmt: skip
    return rng.sample(rows, len(rows))


def _candidates(paragraphs: list[dict[str, Any]]) -> Rows:
    rng = random.Random(SEED)  # noqa: S311
    everywhere = sentences([paragraph["context"].replace("\n", " ") for paragraph in paragraphs])
    rows: Rows = []
    for question, containing, others in _by_answer(paragraphs):
        answers = [answer["text"] for answer in question["answers"]]
        label = dict.fromkeys(containing, 1) | dict.fromkeys(others, 0)
        label = dict(list(label.items())[:CANDIDATES])
        while len(label) < CANDIDATES:
            text = rng.choice(everywhere)
            if not any(answer in text for answer in answers):
                label.setdefault(text, 0)
        for text in rng.sample(list(label), CANDIDATES):
            row = {"query_id": question["id"], "query": question["question"]}
            rows.append(row | {"passage": text, "label": label[text]})
    return rows


def _articles(folder: Path) -> dict[str, list[list[list[str]]]]:
    """Return articles as paragraphs of sentences."""
    count = sum(ARTICLES.values())
    titles = set()
    for line in (folder / "sources" / "wiki_books_01.tsv").read_text("utf-8").splitlines():
        number, _, title = line.partition("\t")
        if number.startswith("w:"):
            titles.add(re.sub(r" \(.*", "", title).lower())
    articles: list[list[list[str]]] = []
    for document in _documents(folder / "wiki_books_01.txt.xz"):
        if len(document) < 3 or not _is_article(document[0], titles):
            continue
        article = [sentences([paragraph]) for paragraph in document[: 1 + BODY[1]]]
        body = sum(map(len, article[1:]))
        if LEAD[0] <= len(article[0]) <= LEAD[1] and body >= BODY[0]:
            articles.append(article)
        if len(articles) == count:
            break
    if len(articles) < count:
        sys.exit(f"{folder} has only {len(articles)} of the required {count} articles")
    return _cut(articles, ARTICLES["train"] / count, 1 - ARTICLES["test"] / count)


def _documents(path: Path) -> Iterator[list[str]]:
    document: list[str] = []
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                document.append(line.strip())
            elif document:
                yield document
                document = []
    if document:
        yield document


def _is_article(lead: str, titles: set[str]) -> bool:
    parts = re.split(r"\b(?:is|are|was|were)\b", lead[:300], maxsplit=1)
    words = re.sub(r"[\",()]", " ", parts[0]).lower().split()
    words = words[1:] if words[:1] in (["the"], ["a"], ["an"]) else words
    named = any(" ".join(words[:count]) in titles for count in range(1, 9))
    return named and len(parts) == 2 and not lead.startswith(('"', "'"))


def _choices(articles: list[list[list[str]]]) -> Rows:
    rng = random.Random(SEED)  # noqa: S311
    rows: Rows = []
    for article in articles:
        usable = [
            [text if SENTENCE[0] <= len(text) <= SENTENCE[1] else "" for text in paragraph]
            for paragraph in article
        ]
        pairs = [
            (number, first, second)
            for number, paragraph in enumerate(usable)
            for first, second in pairwise(paragraph)
            if first and second
        ]
        for number, first, second in rng.sample(pairs, min(2, len(pairs))):
            others = {text for n, part in enumerate(usable) if n != number for text in part}
            elsewhere = sorted(others - {first, second, ""})
            if len(elsewhere) < CHOICES - 1:
                continue
            choices = rng.sample([second, *rng.sample(elsewhere, CHOICES - 1)], CHOICES)
            rows.append({"text": first, "choices": choices, "label": choices.index(second)})
    return rng.sample(rows, len(rows))


def _summaries(articles: list[list[list[str]]]) -> Rows:
    return [
        {
            "document": [text for paragraph in body for text in paragraph][: BODY[1]],
            "summary": " ".join(lead),
        }
        for lead, *body in articles
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    main(options.data, options.out)
