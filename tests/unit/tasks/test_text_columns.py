"""A model of pairs reads pairs, a model of single texts reads single texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import bert_jax
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from support.commands import invoke, refused
from support.finetuned import MODEL
from support.model_server import served

PAIRS = "sentence1,sentence2,label\nthe man,in the store,1\nthe man,a red river,0\n"
SINGLES = "text,label\nthe man,1\nthe store,0\n"
SIZES = ("--data.length", "16", "--train.epochs", "1", "--model.dtype", "float32")


def trained(folder: Path, text: str, *words: str, name: str = "run") -> Path:
    file = folder / f"{name}.csv"
    file.write_text(text, "utf-8")
    words = ("finetune", "classification", "--init", str(MODEL), *SIZES, *words)
    result = invoke(*words, "--data.train", file, "--run_dir", folder / name)
    assert result.returncode == 0, result.stderr
    return folder / name


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"pair": trained(folder, PAIRS, name="pair"), "one": trained(folder, SINGLES)}


def predicted(model: Path, file: Path, *words: str) -> list[dict[str, object]]:
    out = file.with_suffix(".jsonl")
    result = invoke("predict", model, "--input", file, "--output", out, *words)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def test_a_model_of_pairs_refuses_single_texts(models: dict[str, Path], tmp_path: Path) -> None:
    file, out = tmp_path / "a.csv", tmp_path / "out.jsonl"
    words = ("predict", models["pair"], "--input", file, "--output", out)
    for text in (SINGLES, "text,label,note\nthe man,1,\nthe store,0,\n"):
        file.write_text(text, "utf-8")
        for more in ([], ["--score"], ["--rank"]):
            refused(invoke(*words, *more), 78, "pair")
    # The other half of a pair has a name that is not one of the usual ones.
    file.write_text("question,reply\nthe man,in the store\nthe man,a red river\n", "utf-8")
    refused(invoke(*words), 78, "'reply'", "columns.pair")
    refused(invoke(*words, "--columns.pair", "none"), 78, "columns.pair")
    with pytest.raises(BadInputError, match=r"columns\.pair"):
        bert_jax.load(models["pair"]).predict(file)
    assert not out.exists()
    records = predicted(models["pair"], file, "--columns.pair", "reply")
    assert records[0]["probabilities"] != records[1]["probabilities"]
    assert bert_jax.load(models["pair"]).predict(file, columns={"pair": "reply"}) == records


def test_a_model_of_single_texts_refuses_pairs(models: dict[str, Path], tmp_path: Path) -> None:
    file, out = tmp_path / "a.csv", tmp_path / "out.jsonl"
    file.write_text(PAIRS, "utf-8")
    words = ("predict", models["one"], "--input", file, "--output", out)
    for more in ([], ["--score"], ["--columns.text", "sentence1", "--columns.pair", "sentence2"]):
        refused(invoke(*words, *more), 78, "sentence1", "columns.pair")
    refused(invoke(*words, "--rank"), 64, "--rank")
    refused(invoke(*words, "--columns.text", "sentence1"), 78, "sentence2", "columns.pair")
    with pytest.raises(BadInputError, match="sentence1"):
        bert_jax.load(models["one"]).predict(file)
    chosen = ("--columns.text", "sentence1", "--columns.pair", "none")
    assert len(predicted(models["one"], file, *chosen)) == 2


def test_single_texts_beside_another_text_are_remembered(tmp_path: Path) -> None:
    """The choice in training need not be repeated."""
    text = "title,text,label\nthe old man,in the store,1\na red man,the milk was here,0\n"
    run = trained(tmp_path, text, "--data.columns.pair", "none")
    assert len(predicted(run, tmp_path / "run.csv")) == 2


def test_validation_data_and_a_resumed_run_have_as_many_texts(
    models: dict[str, Path], tmp_path: Path
) -> None:
    pairs, singles = tmp_path / "pairs.csv", tmp_path / "singles.csv"
    pairs.write_text(PAIRS, "utf-8")
    singles.write_text(SINGLES, "utf-8")
    words = ("finetune", "classification", "--init", MODEL, *SIZES)
    new = ("--data.train", pairs, "--data.validation", singles, "--run_dir", tmp_path / "run")
    refused(invoke(*words, *new), 78, "singles.csv", "sentence2")
    assert not (tmp_path / "run").exists()
    resumed = ("--data.train", singles, "--run_dir", models["pair"], "--train.epochs", "2")
    refused(invoke(*words, *resumed), 78, "singles.csv", "sentence2")


def test_a_server_refuses_another_number_of_texts(models: dict[str, Path]) -> None:
    with served(models["pair"]) as client:
        assert "pair" in client.refused(422, "classification", text="the man")
        assert "pair" in client.refused(422, "classification", text="the man", pair="")
        assert client.result("classification", text="the man", pair="a store")["label"] in "01"
        query = {"query": "the man", "passages": ["in the store", "a red river"]}
        assert len(client.result("ranking", **query)["ranking"]) == 2
    with served(models["one"]) as client:
        assert "single" in client.refused(422, "classification", text="the man", pair="a store")
        assert client.result("classification", text="the man")["label"] in "01"
        client.refused(404, "ranking", query="the man", passages=["a store", "a river"])


@pytest.mark.parametrize("to", ["bert-jax", "hf"])
def test_a_converted_model_still_compares(to: str, models: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert invoke("convert", models["pair"], copy, "--to", to).returncode == 0
    file = tmp_path / "a.csv"
    file.write_text(SINGLES, "utf-8")
    refused(invoke("predict", copy, "--input", file, "--output", tmp_path / "o"), 78, "sentence2")


def test_a_program_gives_texts_pairs_or_dictionaries(
    models: dict[str, Path], finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(SINGLES, "utf-8")
    single, pair = bert_jax.load(models["one"]), bert_jax.load(models["pair"])
    assert single.predict(["the man", "the store"]) == single.predict(file)
    assert single.predict([]) == []
    file.write_text(PAIRS, "utf-8")
    texts = [("the man", "in the store"), {"text": "the man", "pair": "a red river"}]
    assert pair.predict(texts) == pair.predict(file)
    with pytest.raises(BadInputError, match="sentence2"):
        pair.predict(["the man"])
    with pytest.raises(BadInputError, match="single"):
        single.predict(texts)
    for wrong in (3, None, {"txt": "a"}, ("a", "b", "c"), {"text": 1}, "\ud800"):
        with pytest.raises(BadArgumentsError, match=r"inputs\[1\]"):
            single.predict(["the man", wrong])
    answer = bert_jax.load(finetuned("qa") / "run")
    (record,) = answer.predict([{"question": "the man in?", "context": "the man in a store"}])
    assert record["answer"] in "the man in a store"


def test_queries_are_named_among_the_columns(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("query_id,query,passage\nq1,the man,a store\nq1,the man,a river\n", "utf-8")
    out = tmp_path / "out.jsonl"
    result = invoke("predict", models["pair"], "--input", file, "--output", out, "--rank")
    assert result.returncode == 0, result.stderr
    assert "'query_id'" in result.stderr
    assert "ignored" not in result.stderr
