"""That pages of docs/ leave nothing out: of transformers' arguments, and of what users ask."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from support.commands import ROOT
from support.doc_commands import table

# Those of transformers 5.23.0: `[field.name for field in dataclasses.fields(TrainingArguments)]`.
ARGUMENTS = """
output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
optim_target_modules gradient_accumulation_steps average_tokens_across_devices max_grad_norm
label_smoothing_factor bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing
activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs torch_compile
torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache
neftune_noise_alpha torch_empty_cache_steps auto_find_batch_size logging_strategy logging_steps
logging_first_step log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level
log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size
prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object
eval_accumulation_steps include_for_metrics batch_eval_metrics save_only_model save_strategy
save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token
hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision load_best_model_at_end
metric_for_best_model greater_is_better ignore_data_skip restore_callback_states_from_checkpoint
full_determinism seed data_seed use_cpu accelerator_config parallelism_config dataloader_drop_last
dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
remove_unused_columns label_names train_sampling_strategy length_column_name
ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics do_train do_eval do_predict
resume_from_checkpoint local_rank
"""
GONE = "overwrite_output_dir warmup_ratio logging_dir save_safetensors group_by_length"


def test_every_argument_of_transformers_has_its_line() -> None:
    named = [
        name
        for names, _ in table("transformers.md", "TrainingArguments")
        for name in re.findall(r"`(\w+)`", names)
    ]
    assert len(named) == len(set(named)), "two lines for one argument"
    assert sorted(named) == sorted([*ARGUMENTS.split(), *GONE.split()])


# What users of such tools wish for most, and a word that an answer cannot do without.
WISHES = {
    1: ("data is made in bounded memory", "memory"),
    2: ("data is made fast, on all cores", "cores"),
    3: ("resume and --init are two things", "--init"),
    4: ("a resume restores the optimizer, too", "optimizer"),
    5: ("no skipping to the place in the data", "step"),
    6: ("preemption", "SIGTERM"),
    7: ("NaN, and ids beyond the vocabulary", "vocabulary"),
    8: ("what a normal loss is", "curve"),
    9: ("several devices and hosts", "hosts"),
    10: ("setting up a TPU", "doctor"),
    11: ("pods", "chips"),
    12: ("a loss that is divided once", "divided once"),
    13: ("versions of JAX", "JAX"),
    14: ("conversion, heads included", "heads"),
    15: ("an own vocabulary, SentencePiece", "SentencePiece"),
    16: ("NER as in the paper", "92.4"),
    17: ("losses and evaluation while training", "Early stopping"),
    18: ("more metrics, regression, several labels", "multi-label"),
    19: ("128, then 512", "phases"),
    20: ("memory of devices", "accumulate"),
    21: ("fetching the corpus", "BookCorpus"),
    22: ("traps of next sentence prediction", "Blank lines"),
    23: ("seeds and variance", "--seeds"),
    24: ("questions without an answer", "null"),
    25: ("features of bounded size", "extract-features"),
}


def test_each_of_the_25_wishes_of_users_is_answered() -> None:
    page = (ROOT / "docs/faq.md").read_text("utf-8")
    parts = re.split(r'^<a id="wish-(\d+)"></a>\n\n### .+\n', page, flags=re.M)[1:]
    numbers = [int(number) for number in parts[::2]]
    assert sorted(numbers) == list(WISHES) == list(range(1, 26))
    for number, text in zip(numbers, parts[1::2], strict=True):
        answer = re.split(r"^#", text, flags=re.M)[0]
        what, word = WISHES[number]
        assert len(answer.split()) >= 8, what
        assert word in answer, what


def test_every_question_has_an_answer() -> None:
    page = (ROOT / "docs/faq.md").read_text("utf-8")
    for question, answer in re.findall(r"^### (.+)\n([^#]*)", page, re.M):
        assert len(re.sub(r"<.*?>", "", answer).split()) >= 5, question


def test_what_was_measured_with_one_seed_says_so_everywhere() -> None:
    for name in ("docs/concepts.md", "benchmarks/RESULTS.md", "README.md"):
        paragraphs = (ROOT / name).read_text("utf-8").split("\n\n")
        said = [text for text in paragraphs if "ablations.py STORE`" in text]
        assert said
        assert all("one seed" in text for text in said), name


WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))


def test_the_workflow_pairs_every_python_with_a_jax() -> None:
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert [pair["python"] for pair in matrix["include"]] == matrix["python"]
    assert len({pair["jax"] for pair in matrix["include"]}) == 2


@pytest.mark.parametrize(
    ("pair", "installed", "newest", "code"),
    [
        (0, "0.10.2", "0.10.2", 0),
        (0, "0.10.1", "0.10.2", 1),
        (0, "0.12.0", "0.12.0", 1),
        (1, "0.12.0.1", "0.12.0.1", 0),
        (1, "0.12.0.1", "0.12.1", 1),
    ],
)
def test_another_jax_than_that_of_the_pair_fails(
    pair: int, installed: str, newest: str, code: int, tmp_path: Path
) -> None:
    job = WORKFLOW["jobs"]["test"]
    script = next(step["run"] for step in job["steps"] if "JAX" in step.get("name", ""))
    expected = job["strategy"]["matrix"]["include"][pair]["jax"]
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'  *"pip index"*) echo "jax ({newest})"; echo "Available versions: {newest}, 0.4.1";;\n'
        f"  *metadata*) echo {installed};;\nesac\n",
        "utf-8",
    )
    python.chmod(0o755)
    result = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script.replace("${{ matrix.jax }}", expected)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert f"jax {installed}, newest {newest}" in result.stdout


def test_the_readme_leads_to_a_report_without_scrolling() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150, "move what grows to docs/, and link it"
    reached = next(n for n, line in enumerate(lines) if line.startswith("bert-jax report"))
    assert reached < 60
    first = [line for line in lines[:reached] if line.startswith(("make ", "bert-jax "))]
    assert [line.split()[1] for line in first] == ["pretrain", "test", "finetune", "predict"]
    headings = [line for line in lines if line.startswith("## ")]
    assert headings.index("## What was measured") + 1 == headings.index("## Limits")
