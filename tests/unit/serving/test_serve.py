"""`bert-jax serve`: the API answers as the commands do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bert_jax as bert_jax_package
from bert_jax.nn.encoder import define
from bert_jax.training.step import forward
from pipelines.models.open import open_model
from pipelines.models.predict import predict, task_of
from pipelines.tasks.registry import TASKS, open_task
from pipelines.tasks.task import Columns
from support.finetuned import FILES
from support.model_server import Client, assert_close, served, with_head


@pytest.fixture(scope="module")
def pretrained(trained: Path) -> Iterator[Client]:
    with served(trained) as client:
        yield client


def test_a_pre_trained_model_answers_as_its_object_does(pretrained: Client, trained: Path) -> None:
    model = bert_jax_package.load(trained)
    for text, count in (
        ("The captain finds [MASK] boat.", 3),
        ("[MASK] sells [MASK]", 100),
        ("x" * 20 + " [MASK].", 1),
    ):
        assert_close(
            pretrained.result("fill-mask", text=text, top_k=count)["masks"],
            model.fill_mask(text, count),
        )
    texts = ["A sailor.", "The old cook sells some bread.", "in the harbour " * 40]
    vectors = model.encode(texts)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    answer = pretrained.result("similarity", texts=texts)
    assert_close(answer, {"cosines": (units @ units.T).tolist(), "truncated": [False, False, True]})
    description = pretrained.request("GET", "/api/model")[2]
    assert json.loads(description)["abilities"] == [
        *("fill-mask", "next-sentence", "similarity", "attention", "tokenize")
    ]


def test_the_next_sentence_is_judged_as_in_training(pretrained: Client, trained: Path) -> None:
    model = open_model(trained)
    tokenizer = model.tokenizer()
    a, b = tokenizer.encode(["The captain finds the lamp.", "A child paints it."])
    ids = np.array([[tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]])
    segments = (np.arange(ids.shape[1]) > len(a) + 1).astype(np.int32)[None]
    batch: Any = {
        "token_ids": ids,
        "token_type_ids": segments,
        "segment_ids": np.ones_like(ids),
        "mlm_positions": np.zeros((1, 1), np.int32),
    }
    logits = np.asarray(forward(define(model.network), model.weights.params, batch, None).nsp)[0, 0]
    # Class 1 is "B is from elsewhere".
    follows = 1 / (1 + np.exp(logits[1] - logits[0]))
    pairs = {"text": "The captain finds the lamp.", "pair": "A child paints it."}
    assert_close(
        pretrained.result("next-sentence", **pairs), {"follows": float(follows), "truncated": False}
    )


def test_tokens_are_those_of_the_row(pretrained: Client, trained: Path) -> None:
    tokenizer = bert_jax_package.load(trained).tokenizer
    answer = pretrained.result("tokenize", text="A [MASK] ☂", pair="the lamp")
    ids = [token["id"] for token in answer["tokens"]]
    a, (b,) = tokenizer.encode_masked("A [MASK] ☂"), tokenizer.encode(["the lamp"])
    assert ids == [tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]
    assert [token["position"] for token in answer["tokens"]] == list(range(len(ids)))
    assert [token["segment"] for token in answer["tokens"]] == [0] * (len(a) + 2) + [1] * (
        len(b) + 1
    )
    assert [token["piece"] for token in answer["tokens"]] == [tokenizer.pieces[i] for i in ids]
    assert answer["unknown"] == ids.count(tokenizer.unk_id) > 0


def test_attention_is_a_share_of_every_token(pretrained: Client) -> None:
    pairs = {"text": "The captain finds the lamp.", "pair": "A child."}
    tokens = pretrained.result("tokenize", **pairs)["tokens"]
    layers = [pretrained.result("attention", **pairs, layer=layer) for layer in (1, 2)]
    for answer in layers:
        heads = np.array(answer["heads"])
        assert answer["tokens"] == tokens
        assert heads.shape[1:] == (len(tokens), len(tokens))
        np.testing.assert_allclose(heads.sum(axis=-1), 1.0, atol=1e-3)
    assert layers[0]["heads"] != layers[1]["heads"]
    assert "layers 1 to 2" in pretrained.refused(422, "attention", **pairs, layer=3)
    assert "tokens" in pretrained.refused(422, "attention", text="lamp " * 100)


# Tasks whose trained model is served; those of others have a random head.
TRAINED = {"classification", "tagging", "qa"}


@pytest.mark.parametrize("task", sorted(TRAINED))
def test_a_fine_tuned_model_answers_as_predict_does(
    task: str, finetuned: Callable[[str], Path]
) -> None:
    folder = finetuned(task)
    source = folder / f"validation.{FILES[task].suffix}"
    expected = bert_jax_package.load(folder / "run").predict(source)
    with served(folder / "run") as client:
        described = json.loads(client.request("GET", "/api/model")[2])
        assert described["abilities"][0] == task
        assert "fill-mask" not in described["abilities"]
        same_answers(client, task, source, expected)
        if task == "qa":
            answer = client.result("qa", question="the man in?", context="the man " * 200 + "milk")
            assert answer["answer"] in "the man " * 200 + "milk"
            assert "rows" in client.refused(422, "qa", question="a", context="b " * 4999)


@pytest.mark.parametrize("task", sorted({*TASKS} - TRAINED))
def test_so_does_one_of_any_other_task(task: str, tmp_path: Path) -> None:
    model = with_head(task)
    files = FILES[task]
    source = files.write(tmp_path / f"examples.{files.suffix}", 8, 0)
    name, head, task_options = task_of(model)
    opened = open_task(name, task_options)
    examples = opened.read(str(source), Columns(), labeled=False)
    expected = predict(model, opened, head, examples)
    with served(model) as client:
        same_answers(client, task, source, expected)


def same_answers(client: Client, task: str, source: Path, expected: list[Any]) -> None:
    pairs = list(zip(expected, FILES[task].requests(source), strict=True))[:8]
    for record, request in pairs:
        assert_close(client.result(task, **request), {k: v for k, v in record.items() if k != "id"})
    # Not the same of all.
    assert len({json.dumps(record | {"id": ""}) for record, _ in pairs}) > 1


def test_a_classifier_ranks_passages() -> None:
    passages = ["the man in a store", "the milk in a store", "the store"]
    with served(with_head("classification")) as client:
        answer = client.result("ranking", query="the man", passages=passages)["ranking"]
        # The last class, "wet", stands for relevant.
        single = [
            client.result("classification", text="the man", pair=passage)["probabilities"]["wet"]
            for passage in passages
        ]
        assert client.result("classification", text="the man " * 50)["truncated"]
    assert_close([passage["score"] for passage in answer], sorted(single, reverse=True))
    assert [passage["rank"] for passage in answer] == [1, 2, 3]
    assert sorted(passage["index"] for passage in answer) == [0, 1, 2]
