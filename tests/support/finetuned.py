"""Small labeled files for every task, and fine-tuning on them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.finetuning import finetune
from pipelines.settings import command_parser, read_config
from pipelines.tasks.config import FinetuneConfig
from support.commands import ROOT

MODEL = ROOT / "tests/golden/hugging_face"
WORDS = ["the", "man", "and", "milk", "in", "a", "store", "on"]


def texts(path: Path, count: int, seed: int) -> Path:
    """Write texts with and without milk; a vocabulary of 70 is enough."""
    rng = random.Random(seed)  # noqa: S311
    lines = ["text,label"]
    for number in range(count):
        words = rng.choices([word for word in WORDS if word != "milk"], k=6)
        if number % 2:
            words[rng.randrange(6)] = "milk"
        lines.append(f"{' '.join(words)},{'drink' if number % 2 else 'dry'}")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def tags(path: Path, count: int, seed: int) -> Path:
    rng = random.Random(seed)  # noqa: S311
    sentences = []
    for _ in range(count):
        words = rng.choices(WORDS, k=5)
        sentences.append("\n".join(f"{w} {'B-THING' if w == 'milk' else 'O'}" for w in words))
    path.write_text("\n\n".join(sentences) + "\n", "utf-8")
    return path


def numbers(path: Path, count: int, seed: int) -> Path:
    """Write texts with the number of their mentions of milk."""
    rng = random.Random(seed)  # noqa: S311
    rows = [rng.choices([*WORDS[:2], "milk"], k=6) for _ in range(count)]
    lines = [f"{' '.join(words)},{words.count('milk')}" for words in rows]
    path.write_text("\n".join(["text,label", *lines]) + "\n", "utf-8")
    return path


def choices(path: Path, count: int, seed: int) -> Path:
    """Write choices of which one ends with milk."""
    rng = random.Random(seed)  # noqa: S311
    records = []
    for _ in range(count):
        right, others = rng.randrange(3), [word for word in WORDS if word != "milk"]
        ends = [" ".join(rng.choices(others, k=3)) for _ in range(3)]
        ends[right] = f"{ends[right]} milk"
        records.append({"text": "the man", "choices": ends, "label": right})
    return json_lines(path, records)


def summaries(path: Path, count: int, seed: int) -> Path:
    """Write documents whose summary is the sentence with milk."""
    rng = random.Random(seed)  # noqa: S311
    records = []
    for _ in range(count):
        others = [word for word in WORDS if word != "milk"]
        sentences = [" ".join(rng.choices(others, k=4)) for _ in range(3)]
        sentences[rng.randrange(3)] = "the man and milk"
        records.append({"document": sentences, "summary": "the man and milk"})
    return json_lines(path, records)


def questions(path: Path, count: int, seed: int) -> Path:
    """Write questions whose answer is milk."""
    rng = random.Random(seed)  # noqa: S311
    paragraphs = []
    for number in range(count):
        words = rng.choices([word for word in WORDS if word != "milk"], k=6)
        words[rng.randrange(6)] = "milk"
        context = " ".join(words)
        answer = {"text": "milk", "answer_start": context.index("milk")}
        question = {"id": str(number), "question": "the man in?", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [question]})
    data = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(data), "utf-8")
    return path


def json_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


# Task -> writer of its files, their suffix, a metric and the value that it reaches.
FILES: dict[str, tuple[Callable[[Path, int, int], Path], str, str, float]] = {
    "classification": (texts, "csv", "accuracy", 0.9),
    "tagging": (tags, "conll", "f1", 0.9),
    "regression": (numbers, "csv", "pearson", 0.8),
    "multiple-choice": (choices, "jsonl", "accuracy", 0.8),
    "summarization": (summaries, "jsonl", "rouge1", 0.4),
    "qa": (questions, "json", "exact", 80.0),
}


def options(task: str, folder: Path, run: Path, **more: object) -> list[str]:
    make, ending, *_ = FILES[task]
    values = {
        "init": MODEL,
        "run_dir": run,
        "data.train": make(folder / f"train.{ending}", 64, 0),
        "data.validation": make(folder / f"validation.{ending}", 33, 1),
        "data.length": 16,
        "model.dtype": "float32",
        "optimizer.learning_rate": 5e-3,
        "model.hidden_dropout": 0.0,
        "model.attention_dropout": 0.0,
        "train.epochs": 8,
        "train.batch_size": 12,
        "checkpoint.every": 7,
        "checkpoint.keep": 2,
    } | {key.replace("__", "."): value for key, value in more.items()}
    return [
        "finetune",
        task,
        *(str(w) for key, value in values.items() for w in (f"--{key}", value)),
    ]


def run(words: list[str]) -> dict[str, Any]:
    """Run ``bert-jax finetune`` in this process."""
    name, *rest = words[1:]
    parser = command_parser(f"finetune {name}", "")
    config = replace(read_config(parser, rest, FinetuneConfig)[0], task=name)
    return finetune(config, Partitioner(devices()[:1]))
