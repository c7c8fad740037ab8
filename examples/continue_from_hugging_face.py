"""Continue the pre-training of a Hugging Face model on other text, and convert the result back.

    python examples/continue_from_hugging_face.py bert-base-uncased 'field/*.txt' --steps 10000

bert-base-uncased is a folder with config.json, model.safetensors and vocab.txt. Without arguments,
the example makes a tiny model and a text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sample_data
from pretrain_on_your_text import pretrain_small

from bert_jax.config.phases import Phase
from bert_jax.config.run import (
    CheckpointConfig,
    DataConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.models.convert import convert
from pipelines.models.evaluate import evaluate
from pipelines.models.open import open_model
from pipelines.pretraining import pretrain


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="Hugging Face folder")
    parser.add_argument("text", nargs="?", help="files, a blank line between documents")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    options = parser.parse_args()
    out, partitioner = options.out, Partitioner(devices())
    model = options.model or tiny_model(out, partitioner)
    text = options.text or sample_data.text(out / "field.txt", documents=60)

    # The store uses the model's own vocabulary.
    prepare([f"text:{text}"], model, out / "store-field", held_out=0.2)
    config = RunConfig(
        run_dir=str(out / "continued"),
        init=str(model),
        data=DataConfig(store=str(out / "store-field")),
        optimizer=OptimizerConfig(learning_rate=2e-5, warmup_steps=options.steps // 10),
        train=TrainConfig(batch_size=32, log_every=10, eval_every=0),
        phases=(Phase(length=32, steps=options.steps),),
        checkpoint=CheckpointConfig(every=1000),
    )
    pretrain(config, partitioner)
    store = Store(out / "store-field")
    for name in (model, out / "continued"):
        metrics = evaluate(open_model(name, partitioner), store, length=32)
        print(f"{name}: masked-token loss {metrics['mlm_loss']:.4f}")
    if not (out / "continued-hf").exists():
        convert(open_model(out / "continued", partitioner), out / "continued-hf", "hf")


def tiny_model(out: Path, partitioner: Partitioner) -> Path:
    """Return a Hugging Face folder with a tiny model."""
    if not (out / "hf").exists():
        convert(open_model(pretrain_small(out), partitioner), out / "hf", "hf")
    return out / "hf"


if __name__ == "__main__":
    main()
