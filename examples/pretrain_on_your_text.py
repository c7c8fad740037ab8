"""Pre-train a small BERT on your text, and fill in a masked word.

    python examples/pretrain_on_your_text.py 'texts/*.txt' --vocab-size 8000 --steps 5000

Without a text, the example makes one and takes seconds. Run it again to resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sample_data

import bert_jax
from bert_jax.config.model import ModelConfig
from bert_jax.config.run import DataConfig, OptimizerConfig, Phase, RunConfig, TrainConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.data.sources.corpora import open_corpus
from pipelines.data.store.prepare import prepare
from pipelines.data.tokenizers.train import train
from pipelines.pretraining import pretrain


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", nargs="?", help="files, a blank line between documents")
    parser.add_argument("--vocab-size", type=int, default=120)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    options = parser.parse_args()
    run = pretrain_small(options.out, options.text, options.vocab_size, options.steps)
    masked = "Anna found a [MASK] boat in Oslo ."
    for guess in bert_jax.load(run).fill_mask(masked, top_k=3)[0]:
        print(f"{guess['probability']:.1%}  {guess['token']}")


def pretrain_small(
    out: Path, text: str | None = None, vocab_size: int = 120, steps: int = 60
) -> Path:
    """Make vocabulary, token store and run; return the folder of the run."""
    spec = f"text:{text or sample_data.text(out / 'text.txt')}"
    train(open_corpus(spec), vocab_size, out / "tokenizer", "wordpiece", uncased=True)
    prepare([spec], out / "tokenizer", out / "store", held_out=0.1)
    config = RunConfig(
        run_dir=str(out / "run"),
        data=DataConfig(store=str(out / "store")),
        # Small, so that it takes seconds. With more text: ModelConfig("bert-mini") … ("bert-base").
        model=ModelConfig("bert-tiny", layers=1, hidden_size=64, dtype="float32"),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=steps // 10),
        train=TrainConfig(batch_size=32, log_every=20, eval_every=0),
        phases=(Phase(length=32, steps=steps),),
    )
    pretrain(config, Partitioner(devices()))
    return out / "run"


if __name__ == "__main__":
    main()
