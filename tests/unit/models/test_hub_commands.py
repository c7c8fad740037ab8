"""Commands with models of the Hugging Face hub, and uploads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from safetensors.numpy import load_file

import bert_jax
from pipelines.data.hub import upload
from support.commands import ROOT, inspected, invoke, refused
from support.faulty_proxy import faulty_proxy
from support.hub_server import TOKEN, Hub, commit_of, impatient_client, use

MODEL = ROOT / "tests/golden/hugging_face"
NAME = "hf:me/bert"
TARGET = "me/uploaded"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a model and space for new ones, whose client is this process."""
    folder = Path(shutil.copytree(MODEL, tmp_path / "server/bert"))
    repositories = {"models/me/bert": {"main": folder}, "models/new": {"main": tmp_path / "server"}}
    with impatient_client(monkeypatch, repositories, tmp_path / "home", TOKEN) as hub:
        yield hub


def test_every_command_accepts_a_name_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    assert inspected(NAME)["digest"] == inspected(MODEL)["digest"]
    result = invoke("fill-mask", NAME, "a [MASK] b")
    assert result.returncode == 0, result.stderr
    assert result.stdout == invoke("fill-mask", MODEL, "a [MASK] b").stdout
    (tmp_path / "texts.txt").write_text("a b\nc\n", "utf-8")
    out = tmp_path / "vectors.npz"
    result = invoke("extract-features", NAME, "--input", tmp_path / "texts.txt", "--output", out)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(
        bert_jax.load(NAME).encode(["a b", "c"]), np.load(out)["layer_-1"]
    )
    result = invoke("predict", NAME, "--input", tmp_path / "texts.txt", "--output", tmp_path / "p")
    refused(result, 78, NAME)
    refused(invoke("evaluate", NAME), 64, NAME)


def test_a_run_starts_from_a_model_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    rows = "".join(f"{text}\t{label}\n" for text, label in [("a b", "x"), ("c d", "y")] * 8)
    (tmp_path / "train.tsv").write_text(f"text\tlabel\n{rows}", "utf-8")
    run, out = tmp_path / "run", tmp_path / "out"
    words = ("--data.train", tmp_path / "train.tsv", "--train.epochs", "1", "--run-dir", run)
    result = invoke("finetune", "classification", "--init", NAME, *words)
    assert result.returncode == 0, result.stderr
    assert commit_of(hub.repositories["models/me/bert"]["main"])[:12] in result.stderr
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    assert config["init"] == NAME
    # It resumes without the hub.
    hub.repositories.clear()
    assert invoke("finetune", "classification", "--init", NAME, *words).returncode == 0
    assert invoke("convert", run, out, "--to", "hf").returncode == 0
    card = yaml.safe_load((out / "README.md").read_text("utf-8").split("---")[1])
    assert card["base_model"] == "me/bert"


def test_text_is_prepared_with_a_tokenizer_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c. d e.\n\nf g. h.\n" * 20, "utf-8")
    store = tmp_path / "store"
    words = ("prepare", "--corpus", f"text:{tmp_path}/a.txt", "--out", store)
    result = invoke(*words, "--tokenizer", NAME)
    assert result.returncode == 0, result.stderr
    assert not hub.ranges("model.safetensors")
    words = ("--data.store", store, "--run-dir", tmp_path / "run")
    words += ("--phases", '[{"length": 16, "steps": 1}]', "--train.batch_size", "2")
    words += ("--init", NAME, "--model.dtype", "float32")
    result = invoke("pretrain", *words)
    assert result.returncode == 0, result.stderr
    assert f"weights from {NAME}" in result.stderr


def convert(*words: str | Path, push: str = TARGET) -> tuple[int, str]:
    result = invoke("convert", *words, "--push", push)
    return result.returncode, result.stderr


@pytest.mark.parametrize("to", ["hf", "sentence-transformers"])
def test_a_folder_is_uploaded_with_its_card(hub: Hub, tmp_path: Path, to: str) -> None:
    code, text = convert(MODEL, tmp_path / "out", "--to", to)
    assert code == 0, text
    server = tmp_path / "server" / TARGET
    written = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert ".gitattributes" not in written
    for name, content in written.items():
        assert (server / name).read_bytes() == content
        assert name in text
    assert f"models/{TARGET}" in hub.private
    assert f"{hub.url}/{TARGET}/commit/{commit_of(server)}" in text
    assert TOKEN not in text
    # Large files do not pass through the commit.
    assert (tmp_path / "out/model.safetensors").read_bytes() in hub.uploads.values()
    card = written["README.md"].decode()
    assert f'from_pretrained("{TARGET}")' in card or f'Transformer("{TARGET}")' in card
    assert inspected(f"hf:{TARGET}")["parameters"] == inspected(tmp_path / "out")["parameters"]


def test_an_existing_repository_gets_another_commit(hub: Hub, tmp_path: Path) -> None:
    server = hub.repositories["models/me/bert"]["main"]
    before, first = load_file(server / "model.safetensors"), commit_of(server)
    code, text = convert(MODEL, tmp_path / "out", "--to", "hf", push="hf:me/bert")
    assert code == 0, text
    for words in (first[:12], "config.json, model.safetensors, vocab.txt", "stay: 3"):
        assert words in text
    assert (server / "packed.npz").is_file()
    assert load_file(server / "model.safetensors").keys() == before.keys()
    assert "models/me/bert" not in hub.private


def test_uploads_that_are_refused_before_the_conversion(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for push in ("bert", "me/bert@v1", "a/b/c"):
        assert convert(MODEL, out, "--to", "hf", push=push)[0] == 64
    assert convert(MODEL, out, "--to", "bert-jax")[0] == 64
    refused(invoke("convert", MODEL, out, "--to", "hf", "--pooling", "cls"), 64, "--pooling")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert convert(MODEL, out, "--to", "hf")[0] == 78
    use(monkeypatch, hub.url, tmp_path / "anonymous")
    code, text = convert(MODEL, out, "--to", "hf")
    assert code == 78
    assert "hf auth login" in text
    assert not out.exists()


@pytest.mark.parametrize("fault", ["401", "403", "503"])
def test_a_failed_upload_leaves_the_folder(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    out = tmp_path / "out"
    with faulty_proxy(
        hub.url, fault, always=True, is_affected=lambda method, path: method == "POST"
    ) as proxy:
        use(monkeypatch, proxy.url, tmp_path / "home", TOKEN)
        code, text = convert(MODEL, out, "--to", "hf")
    assert code == (1 if fault == "503" else 78)
    assert f"hf upload {TARGET} {out}" in text
    assert TOKEN not in text
    assert inspected(out)["digest"] == inspected(MODEL)["digest"]


def test_a_fault_of_the_program_is_no_failed_upload(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    monkeypatch.setattr(upload, "size_text", lambda size: {}[size])
    with pytest.raises(KeyError):
        upload.push(tmp_path, upload.push_target(TARGET))


def test_a_server_without_xet_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    code, text = convert(MODEL, tmp_path / "out", "--to", "hf")
    assert code == 1
    assert "HF_HUB_DISABLE_XET=1 hf upload" in text


def test_a_commit_of_somebody_else_in_between_is_not_hidden(hub: Hub, tmp_path: Path) -> None:
    server = hub.repositories["models/me/bert"]["main"]
    (tmp_path / "a.txt").write_text("a", "utf-8")
    listed = hub.commit

    def another_commit(*arguments: Any) -> Any:
        (server / "config.json").write_text("{}", "utf-8")
        return listed(*arguments)

    hub.commit = another_commit  # type: ignore[method-assign]
    code, text = convert(MODEL, tmp_path / "out", "--to", "hf", push="me/bert")
    assert code == 78
    assert "412" in text
    assert (server / "config.json").read_text("utf-8") == "{}"


def test_the_pooling_of_a_source_is_reported(hub: Hub, tmp_path: Path) -> None:
    words = ("--to", "sentence-transformers")
    first, second = tmp_path / "first", tmp_path / "second"
    assert invoke("convert", MODEL, first, *words, "--pooling", "cls").returncode == 0
    assert json.loads((first / "1_Pooling/config.json").read_text("utf-8")) == {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    # The files of version 6.
    (first / "1_Pooling/config.json").write_text('{"pooling_mode": ["cls"]}', "utf-8")
    modules = json.loads((first / "modules.json").read_text("utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2", "type": "sentence_transformers.Normalize"})
    (first / "modules.json").write_text(json.dumps(modules), "utf-8")
    hub.repositories["models/me/sentences"] = {"main": first}
    result = invoke("convert", "hf:me/sentences", second, *words)
    assert result.returncode == 0
    assert "pooling cls" in result.stderr
    assert "Normalize" in result.stderr
    names = load_file(second / "model.safetensors").keys()
    assert not any(name.startswith("cls.") for name in names)
