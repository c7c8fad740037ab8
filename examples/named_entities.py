"""Fine-tune a model to find names of people and places in sentences.

    python examples/named_entities.py MODEL --train train.conll --validation dev.conll

MODEL is a run, a Hugging Face folder or a folder of google-research/bert; the files have a word
and its tag per line. Without arguments, the example makes a tiny model and some sentences.
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

NEW_TEXT = "In Cairo the book was clever , says Greta .\n"


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="model to start from")
    parser.add_argument("--train", type=Path, help="CoNLL columns or JSONL")
    parser.add_argument("--validation", type=Path, help="same format as --train")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="5e-5 for BERT-Base")
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    options = parser.parse_args()
    out = options.out
    train = options.train or sample_data.tagged(out / "train.conll", rows=320, seed=3)
    validation = options.validation or sample_data.tagged(out / "dev.conll", rows=64, seed=4)
    config = FinetuneConfig(
        run_dir=str(out / "entities"),
        init=str(options.model or pretrain_small(out)),
        task="tagging",
        data=TaskDataConfig(train=str(train), validation=str(validation), length=48),
        model=ModelConfig(dtype="float32", hidden_dropout=0.0),
        optimizer=OptimizerConfig(learning_rate=options.learning_rate, warmup_steps=0),
        train=FinetuneTrainConfig(epochs=options.epochs),
    )
    metrics = finetune(config, Partitioner(devices()))
    print(f"entity F1 {metrics['f1']:.1%}")
    model = bert_jax.load(out / "entities")
    for prediction in model.predict(sample_data.write_text(out / "new.txt", NEW_TEXT)):
        for entity in prediction["entities"]:
            print(entity)


if __name__ == "__main__":
    main()
