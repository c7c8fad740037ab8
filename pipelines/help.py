"""Parts of the help beside the options: groups of commands, terms, examples."""

from __future__ import annotations

# Purpose -> its commands, with their summaries. The modules have the same names.
GROUPS = {
    "Data": {
        "train-tokenizer": "train a vocabulary on a corpus",
        "extend-tokenizer": "add domain words to the [unusedN] slots of a WordPiece vocabulary",
        "prepare": "tokenize a corpus into a store",
        "show-batch": "print training examples as text, with masks, segments and labels",
        "bench-loader": "measure how fast batches are made from a store",
    },
    "Pre-train": {
        "pretrain": "train BERT on a store; run it again to resume",
        "evaluate": "compute exact held-out losses and accuracies of a model",
        "fill-mask": "rank the tokens that could replace [MASK]",
    },
    "Fine-tune and use": {
        "finetune": "train a model on a task; run it again to resume",
        "predict": "write the predictions of a fine-tuned model",
        "extract-features": "write hidden states of texts as .npz or Arrow",
    },
    "Inspect": {
        "report": "write one HTML page of one or several runs: curves, data, samples, config",
        "serve": "serve a web page and a JSON API to try a model",
        "inspect": "show shapes, parameters, step and digest of a model or preset",
        "doctor": "check devices, versions and storage, and suggest fixes",
    },
    "Convert": {
        "convert": "write a model for transformers, sentence-transformers or bert-jax; --push it",
    },
    "Cloud": {
        "tpu": "run on Cloud TPU slices: check, request, watch and stop them",
    },
    "Shell": {
        "completion": "print a script for bash, zsh or fish that completes commands and options",
    },
}
COMMANDS = {name: summary for group in GROUPS.values() for name, summary in group.items()}

TERMS = {
    "STORE": "folder with tokenized text, from prepare; works for every sequence length",
    "RUN": "folder of a training run: checkpoints, config, tokenizer, metrics",
    "MODEL": "a RUN, RUN/checkpoints/STEP, hf:ORG/NAME[@REVISION] of the Hugging Face hub, or a"
    " folder from there or from google-research/bert",
    "config": "YAML file, or a name such as tiny; each key a.b is also an option --a.b",
}

EXAMPLES = {
    "train-tokenizer": "train-tokenizer --corpus python-docs --vocab-size 8000 --out tokenizer",
    "extend-tokenizer": "extend-tokenizer MODEL --corpus 'text:field/*.txt' --words 500 --out DIR",
    "prepare": "prepare --corpus python-docs --tokenizer tokenizer --held-out 0.05 --out store",
    "show-batch": "show-batch store --config tiny --rows 2",
    "bench-loader": "bench-loader store --length 512",
    "pretrain": "pretrain --config tiny --data.store store --run-dir runs/first",
    "evaluate": "evaluate runs/first",
    "fill-mask": 'fill-mask runs/first "Returns the number of [MASK] in the list."',
    "finetune": "finetune classification --init MODEL --data.train train.tsv --run-dir runs/task",
    "predict": "predict runs/task --input new.tsv --output predictions.jsonl",
    "extract-features": "extract-features runs/first --input texts.txt --output vectors.npz",
    "report": "report runs/first",
    "serve": "serve runs/first",
    "inspect": "inspect --preset bert-base",
    "doctor": "doctor --run-dir runs/first",
    "convert": "convert runs/first first-hf --to hf",
    "completion": "completion bash > ~/.local/share/bash-completion/completions/bert-jax",
    "tpu": "tpu types v5litepod-16",
    "tpu types": "tpu types v5litepod-16",
    "tpu preflight": "tpu preflight tpu/base_v4_16 --quick",
    "tpu submit": "tpu submit tpu/base_v4_16 --run-dir gs://BUCKET/RUN --dry-run",
    "tpu watch": "tpu watch gs://BUCKET/RUN",
    "tpu status": "tpu status gs://BUCKET/RUN",
    "tpu logs": "tpu logs gs://BUCKET/RUN --follow",
    "tpu ssh": "tpu ssh gs://BUCKET/RUN",
    "tpu stop": "tpu stop gs://BUCKET/RUN",
    "tpu delete": "tpu delete gs://BUCKET/RUN",
    "tpu gc": "tpu gc --zones us-west4-a europe-west4-b --dry-run",
    "tpu local": "tpu local tiny --workers 2 --preempt-at 100",
    "tpu selftest": "tpu selftest --zone us-west4-a",
}

_KEYS = "All keys follow. An option --a.b VALUE is {a: {b: VALUE}} in the file and overrides it."

# The options that most people set, of commands with many.
ESSENTIALS = {
    "pretrain": f"""Most runs set these options; all others have defaults:
  --config FILE                YAML file with any of the options, or a name: tiny, bert_base …
  --data.store STORE           text, from bert-jax prepare
  --run-dir RUN                folder of the run; the same folder resumes it
  --model.preset NAME          size of the network, from bert-tiny to bert-large
  --train.steps N              updates in total
  --train.batch_size N         sequences per update
  --optimizer.learning_rate X  peak learning rate; lower it if the loss diverges
  --init MODEL                 start from this model instead of random weights

{_KEYS}""",
    "finetune": f"""Most runs set these options; all others have defaults:
  --init MODEL                 model to start from
  --data.train FILE            training examples
  --data.validation FILE       validation examples
  --run-dir RUN                folder of the run; the same folder resumes it
  --train.epochs N             epochs
  --optimizer.learning_rate X  peak learning rate, 2e-5 to 5e-5 for most tasks
  --config FILE                YAML file with any of the options, or a name: finetune/sst2 …

{_KEYS}""",
}


def commands() -> str:
    """Return the commands with their summaries, by group, and the terms that they use."""
    # Imports NumPy, which other commands may not need.
    from pipelines.data.sources.registry import forms

    terms = {"SPEC": f"source of text: {forms()}", **TERMS}
    width = max(map(len, COMMANDS))
    parts = [
        "\n".join([f"{title}:", *(f"  {name:{width}}  {text}" for name, text in rows.items())])
        for title, rows in {**GROUPS, "Terms": terms}.items()
    ]
    return "\n\n".join(parts)


def essentials(command: str) -> str:
    """Return the options that most people set, for a command with many options."""
    return ESSENTIALS.get(command.partition(" ")[0], "")


def example(command: str) -> str:
    """Return an example of the command, for the end of its help."""
    return f"Example:\n  bert-jax {EXAMPLES[command]}" if command in EXAMPLES else ""


def finetune_example(task: str, train_file: str) -> str:
    """Return an example of ``finetune`` for a task and a file of training data."""
    return example("finetune").replace("classification", task).replace("train.tsv", train_file)
