"""Pre-trains a small BERT on text of yours, and asks it to fill a gap.

    python examples/pretrain_on_your_text.py 'texts/*.txt' --vocab-size 8000 --steps 5000

Without text it makes up some, and is done in seconds. Run it again, and it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import made_up

import bert_jax
from bert_jax.config.run import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Phase,
    RunConfig,
    TrainConfig,
)
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.commands.prepare import prepare
from pipelines.pretraining import pretrain
from pipelines.commands.train_tokenizer import train
from pipelines.data.sources.corpora import open_corpus


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", nargs="?", help="files, a blank line between documents")
    parser.add_argument("--vocab-size", type=int, default=120)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    options = parser.parse_args()
    run = pretrained(options.out, options.text, options.vocab_size, options.steps)
    gap = "Anna found a [MASK] boat in Oslo ."
    for answer in bert_jax.load(run).fill_mask(gap, top_k=3)[0]:
        print(f"{answer['probability']:.1%}  {answer['token']}")


def pretrained(out: Path, text: str | None = None, vocab_size: int = 120, steps: int = 60) -> Path:
    """The folder of a run that is complete: text, vocabulary, token store and training."""
    spec = f"text:{text or made_up.text(out / 'text.txt')}"
    train(open_corpus(spec), vocab_size, out / "tokenizer", "wordpiece", uncased=True)
    prepare([spec], out / "tokenizer", out / "store", held_out=0.1)
    config = RunConfig(
        run_dir=str(out / "run"),
        data=DataConfig(store=str(out / "store")),
        # Small, to be done in seconds. With more text: ModelConfig("bert-mini") … ("bert-base").
        model=ModelConfig("bert-tiny", layers=1, hidden_size=64, dtype="float32"),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=steps // 10),
        train=TrainConfig(batch_size=32, log_every=20, eval_every=0),
        phases=(Phase(length=32, steps=steps),),
    )
    pretrain(config, Partitioner(devices()))
    return out / "run"


if __name__ == "__main__":
    main()
