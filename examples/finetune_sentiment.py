"""Fine-tune a model to classify the sentiment of sentences, and classify new ones.

    python examples/finetune_sentiment.py MODEL --train train.csv --validation dev.csv

MODEL is a run, a Hugging Face folder or a folder of google-research/bert; the files have the
columns text and label. Without arguments, the example makes a tiny model and some reviews.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sample_data
from pretrain_on_your_text import pretrain_small

import bert_jax
from bert_jax.config.model import ModelConfig
from bert_jax.config.run import OptimizerConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.finetuning import finetune
from pipelines.tasks.config import FinetuneConfig, FinetuneTrainConfig, TaskDataConfig

NEW_TEXTS = ["Emma bought a splendid coat in Lima .", "The meal that Hugo found was dreadful ."]


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="model to start from")
    parser.add_argument("--train", type=Path, help="CSV, TSV or JSONL")
    parser.add_argument("--validation", type=Path, help="same format as --train")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="5e-5 for BERT-Base")
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    options = parser.parse_args()
    out = options.out
    train = options.train or sample_data.reviews(out / "train.csv", rows=320, seed=1)
    validation = options.validation or sample_data.reviews(out / "dev.csv", rows=64, seed=2)
    config = FinetuneConfig(
        run_dir=str(out / "sentiment"),
        init=str(options.model or pretrain_small(out)),
        task="classification",
        data=TaskDataConfig(train=str(train), validation=str(validation), length=32),
        model=ModelConfig(dtype="float32", hidden_dropout=0.0),
        optimizer=OptimizerConfig(learning_rate=options.learning_rate, warmup_steps=0),
        train=FinetuneTrainConfig(epochs=options.epochs),
    )
    metrics = finetune(config, Partitioner(devices()))
    print(f"accuracy {metrics['accuracy']:.1%}")
    model = bert_jax.load(out / "sentiment")
    predictions = model.predict(sample_data.inputs(out / "new.jsonl", NEW_TEXTS))
    for text, prediction in zip(NEW_TEXTS, predictions, strict=True):
        print(f"{prediction['label']:5} {text}")


if __name__ == "__main__":
    main()
