"""What the help says beside the list of options: groups of commands, words, examples."""

from __future__ import annotations

from collections.abc import Mapping

# What somebody wants to do -> the commands for it.
GROUPS = {
    "Data": ("train-tokenizer", "extend-tokenizer", "prepare", "show-batch", "bench-loader"),
    "Pre-train": ("pretrain", "evaluate", "fill-mask"),
    "Fine-tune and use": ("finetune", "predict", "extract-features"),
    "Look": ("report", "serve", "inspect", "doctor"),
    "Convert": ("convert",),
    "Cloud": ("tpu",),
    "Shell": ("completion",),
}

WORDS = {
    "SPEC": "where text comes from: python-docs, text:GLOB, jsonl:GLOB#FIELD or tfds:NAME",
    "STORE": "folder with the text as token numbers, from prepare; one serves every length",
    "RUN": "folder of a training run: checkpoints, config, tokenizer, metrics",
    "MODEL": "a RUN, RUN/checkpoints/STEP, or a folder of Hugging Face or google-research/bert",
    "config": "a YAML file such as those of configs/; each key a.b is also an option --a.b",
}

EXAMPLES = {
    "train-tokenizer": "train-tokenizer --corpus python-docs --vocab-size 8000 --out tokenizer",
    "extend-tokenizer": "extend-tokenizer MODEL --corpus 'text:field/*.txt' --words 500 --out DIR",
    "prepare": "prepare --corpus python-docs --tokenizer tokenizer --held-out 0.05 --out store",
    "show-batch": "show-batch store --config configs/tiny.yaml --rows 2",
    "bench-loader": "bench-loader store --length 512",
    "pretrain": "pretrain --config configs/tiny.yaml --data.store store --run_dir runs/first",
    "evaluate": "evaluate runs/first",
    "fill-mask": 'fill-mask runs/first "Returns the number of [MASK] in the list."',
    "finetune": "finetune classification --init MODEL --data.train train.tsv --run_dir runs/task",
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
    "tpu preflight": "tpu preflight configs/tpu/base_v4_16.yaml --quick",
    "tpu submit": "tpu submit configs/tpu/base_v4_16.yaml --run_dir gs://BUCKET/RUN --dry-run",
    "tpu watch": "tpu watch gs://BUCKET/RUN",
    "tpu status": "tpu status gs://BUCKET/RUN",
    "tpu logs": "tpu logs gs://BUCKET/RUN --follow",
    "tpu ssh": "tpu ssh gs://BUCKET/RUN",
    "tpu stop": "tpu stop gs://BUCKET/RUN",
    "tpu delete": "tpu delete gs://BUCKET/RUN",
    "tpu gc": "tpu gc --zones us-west4-a europe-west4-b --dry-run",
    "tpu local": "tpu local configs/tiny.yaml --workers 2 --preempt_at 100",
    "tpu selftest": "tpu selftest --zone us-west4-a",
}

# Task -> a file of the kind that it reads, for its example.
EXAMPLES_OF = {
    "classification": "train.tsv",
    "regression": "train.tsv",
    "multiple-choice": "train.jsonl",
    "tagging": "train.conll",
    "qa": "train.json",
    "summarization": "train.jsonl",
}

_KEYS = "All keys follow. An option --a.b VALUE is {a: {b: VALUE}} in the file, and goes before it."

# What most people set, where there are many options.
ESSENTIALS = {
    "pretrain": f"""What most runs set; everything else has a default:
  --config FILE                a YAML file that sets some or all of it, see configs/
  --data.store STORE           the text, from bert-jax prepare
  --run_dir RUN                folder of the run; the same one again resumes
  --model.preset NAME          size of the network, from bert-tiny to bert-large
  --train.steps N              updates in all
  --train.batch_size N         sequences per update
  --optimizer.learning_rate X  its peak; less if the loss explodes
  --init MODEL                 go on with this model instead of fresh weights

{_KEYS}""",
    "finetune": f"""What most runs set; everything else has a default:
  --init MODEL                 the model to start from
  --data.train FILE            examples to learn from
  --data.validation FILE       examples to measure on
  --run_dir RUN                folder of the run; the same one again resumes
  --train.epochs N             passes over the examples
  --optimizer.learning_rate X  its peak, 2e-5 to 5e-5 for most tasks
  --config FILE                a YAML file that sets some of it, see configs/finetune/

{_KEYS}""",
}


def commands(said: Mapping[str, str]) -> str:
    """The commands with what is `said` of them, by group, and the words they use."""
    width = max(map(len, said))
    parts = []
    for group, names in GROUPS.items():
        rows = [f"  {name:{width}}  {said[name]}" for name in names]
        parts.append("\n".join([f"{group}:", *rows]))
    rows = [f"  {word:{width}}  {meaning}" for word, meaning in WORDS.items()]
    return "\n\n".join([*parts, "\n".join(["Words:", *rows])])


def essentials(command: str) -> str:
    """What most people set, of a command with many options."""
    return ESSENTIALS.get(command.partition(" ")[0], "")


def example(command: str) -> str:
    """What may be typed, for the end of its help."""
    found = EXAMPLES.get(command, "")
    name, _, task = command.partition(" ")
    if name == "finetune" and task:
        found = EXAMPLES[name].replace("classification", task)
        found = found.replace(EXAMPLES_OF["classification"], EXAMPLES_OF[task])
    return f"Example:\n  bert-jax {found}" if found else ""
