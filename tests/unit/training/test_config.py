"""Configs: defaults and refusals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import DataConfig, Phase, RunConfig, TrainConfig, as_dict
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UserError, printable
from bert_jax.runtime.paths import _REMEDY
from bert_jax.training.resume import changes
from pipelines.settings import config_from_dict, run_config, to_yaml
from support.commands import invoke, refused, run_python


def phases(*steps: int, total: int = 0) -> list[int]:
    configured = tuple(
        Phase(length=16 * number, steps=s) for number, s in enumerate(steps, start=1)
    )
    config = RunConfig(run_dir="x", phases=configured, train=TrainConfig(steps=total))
    assert config.steps == sum(phase.steps for phase in config.phases)
    return [phase.steps for phase in config.phases]


def test_train_steps_decides_where_the_phases_end() -> None:
    assert phases(30, 10) == [30, 10]
    assert phases(30, 0, total=50) == [30, 20]
    assert phases(30, 10, total=35) == [30, 5]
    assert phases(30, 10, total=20) == [20]
    assert phases(30, 10, total=90) == [30, 60]


@pytest.mark.parametrize(
    ("steps", "total", "word"),
    [((0,), 0, "train.steps"), ((0, 10), 30, "phase 1"), ((), 3, "empty")],
)
def test_a_phase_without_steps_is_refused(steps: tuple[int, ...], total: int, word: str) -> None:
    with pytest.raises(BadInputError, match=word):
        phases(*steps, total=total)


def test_a_preset_sets_only_missing_values() -> None:
    model = ModelConfig(preset="bert-large", layers=3).resolved()
    assert (model.layers, model.hidden_size, model.heads) == (3, 1024, 16)
    assert model.feed_forward_size == 4096


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 30, "heads": 4}, ["30", "4"]),
        ({"preset": "bert-huge"}, ["bert-huge"]),
        ({"hidden_dropout": 1.5}, ["hidden_dropout", "1.5"]),
        ({"hidden_dropout": float("nan")}, ["hidden_dropout"]),
        ({"layers": -1}, ["layers", "-1"]),
    ],
)
def test_an_impossible_network_is_refused(changes: dict[str, object], words: list[str]) -> None:
    with pytest.raises(BadInputError) as error:
        ModelConfig(**changes).resolved()  # type: ignore[arg-type]
    for word in words:
        assert word in str(error.value)


def test_a_saved_config_reads_back_equal(config: RunConfig) -> None:
    assert config_from_dict(yaml.safe_load(to_yaml(config)), "config.yaml", RunConfig) == config
    assert config_from_dict(as_dict(config), "checkpoint", RunConfig) == config


def test_names_of_older_versions_are_read_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.yaml").write_text("run_dir: a\nmodel: {preset: bert-mini, segments: 3}\n")
    options = ["--config", str(tmp_path / "old.yaml"), "--train.steps", "7"]
    assert run_config(options).model.type_vocab_size == 3
    assert "model.type_vocab_size" in capsys.readouterr().err
    config = run_config([*options, "--model.segments=4"])
    assert config.model.type_vocab_size == 4
    assert "--model.type_vocab_size" in capsys.readouterr().err
    saved = as_dict(config)
    saved["model"]["segments"] = saved["model"].pop("type_vocab_size")
    assert config_from_dict(saved, "checkpoint", RunConfig) == config
    assert config_from_dict(saved["model"], "checkpoint", ModelConfig) == config.model
    assert changes(saved, config, {}, {}, 0) == []


def test_a_base_file_is_overridden_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("run_dir: a\nmodel: {preset: bert-mini, layers: 5}\n")
    (tmp_path / "over.yaml").write_text("base: base.yaml\nmodel: {layers: 6}\n")
    config = run_config(["--config", str(tmp_path / "over.yaml"), "--train.steps", "7"])
    assert (config.run_dir, config.model.layers, config.model.hidden_size) == ("a", 6, 256)
    assert config.steps == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimizer: {learning_rte: 1}", ["optimizer.learning_rte", "optimizer.learning_rate"]),
        ("phases: [{lenght: 1}]", ["phases.lenght", "length"]),
        ("train: {batch_size: many}", ["train.batch_size", "many"]),
        ("parallel: {mapping: xmap}", ["parallel.mapping", "xmap", "jit"]),
        ("train: [1]", ["train"]),
        ("- 1", ["list"]),
        ("a: [", ["YAML"]),
        ("base: nowhere.yaml", ["nowhere.yaml"]),
        ("base: wrong.yaml", ["base", "itself"]),
        ("base: [a.yaml]", ["base", "a.yaml"]),
        ("train: {steps: null}", ["train.steps", "no value"]),
        ("optimizer.learning_rate: 1", ["optimizer: {learning_rate: …}"]),
        ("phases: [32, 5]", ["phases must be a list"]),
        ("data: {mlm_probability: 0}", ["data.mlm_probability", "above 0"]),
        ("seed: 99999999999999999999", ["seed"]),
        (
            "train: {steps: 1}\ncheckpoint: {keep_best: true, every: 10}",
            ["checkpoint.keep_best", "train.eval_every"],
        ),
    ],
)
def test_a_wrong_config_file_is_named_with_its_key(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(f"{text}\n")
    with pytest.raises(BadInputError) as error:
        run_config(["--config", str(file), "--run_dir", "x"])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--trian.steps", "3"], ["--trian.steps", "--train.steps"]),
        (["--train.steps", "few"], ["--train.steps", "few"]),
        (["--config"], ["--config"]),
        (["my.yaml"], ["--config my.yaml"]),
    ],
)
def test_a_wrong_option_is_named(argv: list[str], words: list[str]) -> None:
    with pytest.raises(BadArgumentsError) as error:
        run_config(["--run_dir", "x", *argv])
    for word in words:
        assert word in str(error.value)


def test_underscores_and_hyphens_are_the_same() -> None:
    config = run_config(["--run-dir", "x", "--optimizer.learning-rate", "2", "--train.steps=3"])
    assert (config.run_dir, config.optimizer.learning_rate, config.steps) == ("x", 2.0, 3)


def test_a_sequence_has_no_more_predictions_than_tokens() -> None:
    assert DataConfig(max_predictions=20).predictions(16) == 16


def test_exit_codes_distinguish_arguments_from_configs(tmp_path: Path) -> None:
    refused(invoke("pretrain", "--trian.steps", "3"), 64, "did you mean '--train.steps'?")
    (tmp_path / "wrong.yaml").write_text("modle: {}\n")
    refused(invoke("pretrain", "--config", tmp_path / "wrong.yaml"), 78, "'modle'", "'model'")
    refused(invoke("pre-train"), 64, "'pretrain'")


def test_a_signal_during_exit_does_not_change_the_exit_code() -> None:
    """During exit Python restores the default handlers, and SIGTERM would change the code."""
    code = (
        "import os, signal\n"
        "from bert_jax.runtime import entry_point\n"
        "class Late:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "late = Late()\n"
        "entry_point.run(lambda argv: None, [])\n"
    )
    assert run_python(code).returncode == 0


LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 13)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 13)
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param(LAUGHS + "model: *a12", "10,000 values", id="aliases of aliases"),
        pytest.param(MERGES + "model: *a12", "10,000 values", id="merges of merges"),
        pytest.param("model: &a [*a]", "10,000 values", id="a value within itself"),
        pytest.param("x: 1\n" * 60_000, "262,144 bytes", id="a large file"),
        pytest.param("[" * 100_000, "recursion", id="a deep list"),
        pytest.param("seed: !!python/object/apply:os.getpid []", "python/object", id="a program"),
        pytest.param("seed: !!timestamp x", "cannot be read", id="a tag that does not fit"),
        pytest.param("seed: !!int ''", "cannot be read", id="a number of nothing"),
        pytest.param(f"seed: {'9' * 5000}", "digits", id="a number of 5,000 digits"),
        pytest.param("seed: 2001-99-99", "month", id="a day that is none"),
    ],
)
def test_a_hostile_file_is_refused_in_a_line(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(BadInputError, match=word) as error:
        run_config(["--config", str(file), "--run_dir", "x"])
    assert str(file) in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_aliases_are_read_where_they_are_few(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("phases: [&a {length: 16, steps: 2, batch_size: 4}, *a]\n", "utf-8")
    phases = run_config(["--config", str(file), "--run_dir", "x"]).phases
    assert phases[0] == phases[1] == Phase(length=16, steps=2, batch_size=4)


def test_a_pipe_instead_of_a_config_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name, word in (("pipe", "pipe or device"), ("loop", "symbolic links")):
        with pytest.raises(BadInputError, match=word):
            run_config(["--config", str(tmp_path / f"{name}.yaml"), "--run_dir", "x"])


def test_a_message_is_one_line_for_a_terminal() -> None:
    error = UserError("a.txt holds \x1b[2J\u202e\ud800\nand more; " + "x" * 1000 + "; restore it")
    text = str(error)
    assert text.startswith(r"a.txt holds \x1b[2J\u202e\ud800 and more; x")
    assert text.endswith("; restore it")
    assert len(text) < 500


def test_printable_text_is_unchanged() -> None:
    for text in ("全角\u3000空白", "prix\xa0: 5\u202f€", "क्\u200dष", "größe"):
        assert printable(text) == text


def test_a_long_message_keeps_its_remedy() -> None:
    error = BadInputError(f"gs://bucket/{'x' * 600}; {_REMEDY}")
    assert str(error).endswith(_REMEDY)


def test_a_printed_line_does_not_control_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    say("a label \x1b[31m of [bold] :smile:")
    assert r"a label \x1b[31m of [bold] :smile:" in capfd.readouterr().err


def test_a_number_of_hundreds_of_digits_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"optimizer: {{learning_rate: 1{'0' * 400}}}\n", "utf-8")
    with pytest.raises(BadInputError, match="too large"):
        run_config(["--config", str(file), "--run_dir", "x"])
