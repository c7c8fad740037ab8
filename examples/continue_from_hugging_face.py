"""Goes on with the pre-training of a Hugging Face model on other text, and writes one back.

    python examples/continue_from_hugging_face.py bert-base-uncased 'field/*.txt' --steps 10000

where bert-base-uncased is a folder with config.json, model.safetensors and vocab.txt. Without
arguments it makes a tiny one, and a text.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import made_up
from pretrain_on_your_text import pretrained

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
from pipelines.models.convert import convert
from pipelines.models.evaluate import evaluate
from pipelines.commands.prepare import prepare
from pipelines.pretraining import pretrain
from pipelines.data.store.token_store import Store
from pipelines.models.open import open_model


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="Hugging Face folder")
    parser.add_argument("text", nargs="?", help="files, a blank line between documents")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    options = parser.parse_args()
    out, partitioner = options.out, Partitioner(devices())
    model = options.model or tiny_model(out, partitioner)
    text = options.text or made_up.text(out / "field.txt", documents=60)

    # The text is cut with the model's own vocabulary.
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
        found = evaluate(open_model(name, partitioner), store, partitioner, length=32)
        print(f"{name}: masked-token loss {found['mlm_loss']:.4f}")
    if not (out / "continued-hf").exists():
        convert(open_model(out / "continued", partitioner), out / "continued-hf", "hf")


def tiny_model(out: Path, partitioner: Partitioner) -> Path:
    """A Hugging Face folder with a tiny model."""
    if not (out / "hf").exists():
        convert(open_model(pretrained(out), partitioner), out / "hf", "hf")
    return out / "hf"


if __name__ == "__main__":
    main()
