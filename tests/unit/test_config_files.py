"""Configs by name, in options and as bases of other files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.config_files import find_config, named_configs
from pipelines.settings import run_config
from support.commands import ROOT


def test_every_config_has_a_name() -> None:
    files = {*(ROOT / "configs").rglob("*.yaml")}
    assert {*named_configs().values()} == files
    assert {"tiny", "finetune/sst2", "tpu/base_v4_16"} <= named_configs().keys()


def test_a_name_and_a_path_are_the_same_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_config(["--config", str(ROOT / "configs/tiny.yaml")])
    monkeypatch.chdir(tmp_path)
    assert run_config(["--config", "tiny"]) == expected
    (tmp_path / "tiny").mkdir()  # a folder is no config
    assert run_config(["--config", "tiny"]) == expected


def test_a_file_of_the_user_precedes_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").write_text("seed: 7\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert find_config("tiny") == Path("tiny")
    assert run_config(["--config", "tiny", "--train.steps", "1", "--run-dir", "r"]).seed == 7


def test_a_base_can_be_a_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: tiny\nseed: 7\n", "utf-8")
    config, base = run_config(["--config", str(file)]), run_config(["--config", "tiny"])
    assert config.seed == 7
    assert config.phases == base.phases


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tinny", (" tiny,", "bert_base,", "finetune/{go_emotions,mrpc,", "tpu/{base_v3_32,")),
        ("configs/tiny.yaml", ("did you mean --config tiny?",)),
        ("tiny.yaml", ("did you mean --config tiny?",)),
    ],
)
def test_a_config_that_does_not_exist_is_refused_with_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError) as error:
        run_config(["--config", text])
    for word in (f"{text}: No such file", *words):
        assert word in str(error.value)
