"""Fine-tune a classifier with the Trainer of transformers: the peer of finetune_speed.py.

python benchmarks/trainer_peer.py MODEL ROWS.csv OUT --length 64 --epochs 3
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
import transformers


class Rows(torch.utils.data.Dataset):
    """Encoded rows with their labels; batches are padded later."""

    def __init__(self, path: Path, tokenizer: transformers.PreTrainedTokenizerBase, length: int):
        """Read the columns label and text, or the two first columns that are not the label."""
        with path.open(encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
        names = [name for name in records[0] if name not in ("label", "id")][:2]
        texts = [[record[name] for record in records] for name in names]
        self.encoded = tokenizer(*texts, truncation=True, max_length=length)
        self.names = sorted({record["label"] for record in records})
        self.labels = [self.names.index(record["label"]) for record in records]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, object]:
        """Return a row."""
        return {name: values[index] for name, values in self.encoded.items()} | {
            "labels": self.labels[index]
        }


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("rows", type=Path)
    parser.add_argument("out")
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--by-length", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    rows = Rows(options.rows, tokenizer, options.length)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=len(rows.names)
    )
    arguments = transformers.TrainingArguments(
        options.out, per_device_train_batch_size=32, num_train_epochs=options.epochs,
        learning_rate=5e-5, warmup_steps=0.1, weight_decay=0.01, bf16=options.bfloat16,
        torch_compile=options.compile, report_to=[], disable_tqdm=True, use_cpu=True,
        train_sampling_strategy="group_by_length" if options.by_length else "random",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
