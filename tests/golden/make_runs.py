"""Make the golden run folders: one version writes them, later versions read them.

    pip install -e '.[test]'
    PYTHONPATH=tests python tests/golden/make_runs.py

Later versions must resume, evaluate and convert these folders as this version does. So do not make
them again when the program changes; a new format gets its own folder, beside them. If the same
version makes them again, they differ only in times and in the names of Orbax's files.

    runs/stories.txt                       the corpus, of `support.corpora`
    runs/tokenizer, runs/store             made of it by train-tokenizer and prepare
    runs/pretrained                        stopped by SIGTERM at step 10 of 20; its checkpoint
    runs/train.csv, validation.csv         sentences of the same grammar with a label
    runs/finetuned                         `pretrained`, trained on them to the end; its checkpoint
    runs/texts.csv                         three texts to predict
    runs/expected.json                     results of this version, and versions of the packages

Held-out losses in `expected.json` were computed again with this version when evaluation became the
same for all runs: with the default data config instead of that of the run (`short_seq_prob` 0.5).

Every command runs in `runs`, so all paths that the program writes are relative. The script changes
two things afterwards: it renames the event files of TensorBoard, which are named after the host,
and it shortens the path in Orbax's `commit_success.txt` to `runs`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from safetensors.numpy import load_file

import bert_jax
from bert_jax.runtime import entry_point
from bert_jax.runtime.distributed import join
from bert_jax.runtime.errors import PreemptedError
from bert_jax.training.partitioner import Partitioner
from pipelines.pretraining import pretrain
from pipelines.settings import run_config
from support.corpora import story, write_corpus

OUT = Path(__file__).resolve().parent / "runs"
ROOT = OUT.parents[2]
DOCUMENTS, VOCABULARY, HELDOUT = 24, 80, 0.35
STOP = 10  # the step that the interrupted run saves
LARGE = ("boat", "box", "door")  # the other things of the grammar are small
TEXTS = (
    "The old cook paints a wooden boat on the hill.",
    "A child finds some bread near the river.",
    "My sister hides the broken clock behind the blue door.",
)
PRETRAINING = {
    "run_dir": "pretrained",
    "data.store": "store",
    "data.short_seq_prob": 0.5,
    "model.preset": "bert-tiny",
    "model.hidden_size": 16,
    "model.layers": 2,
    "model.heads": 2,
    "model.feed_forward_size": 24,
    "model.max_positions": 32,
    "model.dtype": "float32",
    "optimizer.learning_rate": 5e-3,
    "optimizer.warmup_steps": 5,
    "train.batch_size": 8,
    "train.log_every": 1,
    "train.eval_every": 5,
    "train.eval_batches": 2,
    "phases": "[{length: 16, steps: 12}, {length: 32, steps: 8, batch_size: 4}]",
    "checkpoint.every": 5,
    "checkpoint.keep": 1,
}
FINETUNING = {
    "run_dir": "finetuned",
    "init": "pretrained",
    "data.train": "train.csv",
    "data.validation": "validation.csv",
    "data.length": 32,
    "model.dtype": "float32",
    "optimizer.learning_rate": 1e-2,
    "train.epochs": 8,
    "train.batch_size": 16,
    "train.log_every": 4,
    "checkpoint.keep": 1,
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors")
LARGEST, MOST = 200_000, 400_000  # bytes: of a file, of all


def words(options: dict[str, Any]) -> list[str]:
    """Return the options as a command line."""
    return [str(word) for key, value in options.items() for word in (f"--{key}", value)]


def command(folder: Path, *arguments: str) -> str:
    """Run `bert-jax ARGUMENTS` in `folder`; return its standard output."""
    line = [sys.executable, "-m", "pipelines.commands.cli", *arguments]
    return subprocess.run(line, cwd=folder, check=True, text=True, stdout=subprocess.PIPE).stdout


def interrupted(argv: list[str]) -> None:
    """Run `bert-jax pretrain` in this process, which receives SIGTERM before step STOP."""

    def stop(step: int) -> None:
        if step == STOP - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def main(argv: Any) -> None:
        config = run_config(argv)
        pretrain(config, Partitioner.of(config.parallel, join()), stop)

    os.chdir(OUT)
    entry_point.run(main, argv)


def examples(path: Path, count: int, seed: int) -> None:
    """Write labeled sentences about large and small things."""
    rng = random.Random(seed)  # noqa: S311
    lines = ["text,label"]
    for _ in range(count):
        (sentence,) = story(rng, 1)
        is_large = any(word in sentence for word in LARGE)
        lines.append(f"{sentence},{'large' if is_large else 'small'}")
    path.write_text("\n".join(lines) + "\n", "utf-8")


def make_data() -> None:
    """Write corpus, tokenizer, store and examples."""
    write_corpus(OUT / "stories.txt", DOCUMENTS)
    options = ("--kind", "wordpiece", "--vocab-size", str(VOCABULARY), "--out", "tokenizer")
    command(OUT, "train-tokenizer", "--corpus", "text:stories.txt", *options)
    options = ("--tokenizer", "tokenizer", "--held-out", str(HELDOUT), "--out", "store")
    command(OUT, "prepare", "--corpus", "text:stories.txt", *options)
    examples(OUT / "train.csv", 64, 0)
    examples(OUT / "validation.csv", 16, 1)
    (OUT / "texts.csv").write_text("\n".join(["text", *TEXTS]) + "\n", "utf-8")


def make_runs() -> None:
    """Write both run folders."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=interrupted, args=(words(PRETRAINING),))
    process.start()
    process.join()
    assert process.exitcode == PreemptedError.exit_code
    command(OUT, "finetune", "classification", *words(FINETUNING))
    for path in OUT.glob("*/tensorboard/*"):
        path.rename(path.with_name("events.out.tfevents.1.golden"))
    for path in OUT.rglob("commit_success.txt"):
        path.write_text(path.read_text("utf-8").replace(str(OUT), OUT.name), "utf-8")


def inspected(folder: Path, model: str) -> dict[str, Any]:
    """Return step, digest and number of parameters of a model."""
    description = json.loads(command(folder, "inspect", model, "--json"))
    return {name: description[name] for name in ("architecture", "parameters", "step", "digest")}


def evaluated(folder: Path) -> dict[str, Any]:
    """Return the held-out metrics of the pre-training run."""
    metrics: dict[str, Any] = json.loads(command(folder, "evaluate", "pretrained", "--json"))
    return metrics


def exported(folder: Path, model: str) -> dict[str, str]:
    """Convert a model to Hugging Face's format; return each tensor's shape and SHA-256 prefix."""
    command(folder, "convert", model, f"{model}-hf", "--to", "hf")
    tensors = load_file(folder / f"{model}-hf/model.safetensors")
    return {
        name: f"{list(tensor.shape)} {hashlib.sha256(tensor.tobytes()).hexdigest()[:16]}"
        for name, tensor in sorted(tensors.items())
    }


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def measured(folder: Path) -> dict[str, Any]:
    """Return the results of this version on a copy of the folders, which it changes."""
    pretrained = {
        **inspected(folder, "pretrained"),
        "evaluation": evaluated(folder),
        "exported": exported(folder, "pretrained"),
    }
    options = ("--input", "texts.csv", "--output", "predictions.jsonl")
    command(folder, "predict", "finetuned", *options)
    finetuned = {
        **inspected(folder, "finetuned"),
        "results": json.loads((folder / "finetuned/eval_results.json").read_text("utf-8")),
        "predictions": json_lines(folder / "predictions.jsonl"),
        "exported": exported(folder, "finetuned"),
    }
    command(folder, "pretrain", "--config", "pretrained/config.yaml")
    lines = json_lines(folder / "pretrained/metrics.jsonl")
    resumed = {
        **inspected(folder, "pretrained"),
        "losses": {line["step"]: line["loss"] for line in lines if "loss" in line},
        "heldout_losses": {
            line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line
        },
        "evaluation": evaluated(folder),
    }
    return {"pretrained": pretrained, "finetuned": finetuned, "resumed": resumed}


def check() -> None:
    """Refuse files that are large, or that contain a path of this machine or its host name."""
    files = [path for path in OUT.rglob("*") if path.is_file()]
    sizes = {path: path.stat().st_size for path in files}
    assert max(sizes.values()) < LARGEST
    assert sum(sizes.values()) <= MOST
    local_paths = [str(ROOT), str(Path.home()), gettempdir(), sys.prefix]
    for path in files:
        assert platform.node() not in path.name.split("."), path
        content = path.read_bytes()
        assert not any(text.encode() in content for text in local_paths), path


def main() -> None:
    """Make everything."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    make_data()
    make_runs()
    with TemporaryDirectory() as name:
        results = measured(Path(shutil.copytree(OUT, Path(name) / "runs")))
    versions = {"python": platform.python_version(), "bert-jax": bert_jax.__version__}
    versions |= {name: version(name) for name in PACKAGES}
    content = {"versions": versions, **results}
    (OUT / "expected.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    check()


if __name__ == "__main__":
    main()
