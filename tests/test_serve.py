"""`bert-jax serve`: the API answers as the commands do, whatever it is asked."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

import bert_jax as bert_jax_package
from bert_jax.errors import BadInputError
from bert_jax.parallel import Layout, devices
from bert_jax.state import define
from bert_jax.steps import forward
from conftest import ROOT, bert_jax, environment, refused, start
from pipelines import serve
from pipelines.model import open_model
from pipelines.predict import predict, task_of
from pipelines.serving.answers import MOST_MASKS, Answers
from pipelines.serving.batching import Batcher, OverloadedError
from pipelines.serving.guards import Hosts
from pipelines.serving.messages import BODY_BYTES, CHARACTERS
from pipelines.serving.programs import Programs
from pipelines.tasks.registry import open_task
from pipelines.tasks.task import Columns
from serving import Client, served, with_head
from test_finetune import FILES, MODEL, options, run

NEAR = 1e-5


@pytest.fixture(scope="module")
def pretrained(trained: Path) -> Iterator[Client]:
    with served(trained) as client:
        yield client


def near(found: Any, expected: Any) -> None:
    """Asserts that JSON values are equal, numbers to 1e-5; `found` may have more keys."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            near(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            near(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=NEAR, rel=NEAR)
    else:
        assert found == expected


def test_a_pre_trained_model_answers_as_its_object_does(pretrained: Client, trained: Path) -> None:
    model = bert_jax_package.load(trained)
    for text, count in (
        ("The captain finds [MASK] boat.", 3),
        ("[MASK] sells [MASK]", 100),
        ("x" * 20 + " [MASK].", 1),
    ):
        near(
            pretrained.found("fill-mask", text=text, top_k=count)["masks"],
            model.fill_mask(text, count),
        )
    texts = ["A sailor.", "The old cook sells some bread.", "in the harbour " * 40]
    vectors = model.encode(texts)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = pretrained.found("similarity", texts=texts)
    near(found, {"cosines": (units @ units.T).tolist(), "truncated": [False, False, True]})
    description = pretrained.ask("GET", "/api/model")[2]
    assert json.loads(description)["abilities"] == [
        *("fill-mask", "next-sentence", "similarity", "attention", "tokenize")
    ]


def test_the_next_sentence_is_judged_as_in_training(pretrained: Client, trained: Path) -> None:
    layout = Layout(devices()[:1])
    model = open_model(trained, layout)
    tokenizer = model.tokenizer()
    a, b = tokenizer.encode(["The captain finds the lamp.", "A child paints it."])
    ids = np.array([[tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]])
    segments = (np.arange(ids.shape[1]) > len(a) + 1).astype(np.int32)[None]
    batch: Any = {
        "token_ids": ids,
        "segment_ids": segments,
        "sequence_ids": np.ones_like(ids),
        "mlm_positions": np.zeros((1, 1), np.int32),
    }
    logits = np.asarray(forward(define(model.network), model.weights.params, batch, None).nsp)[0, 0]
    # Class 1 is "B is from elsewhere".
    follows = 1 / (1 + np.exp(logits[1] - logits[0]))
    asked = {"text": "The captain finds the lamp.", "pair": "A child paints it."}
    near(
        pretrained.found("next-sentence", **asked), {"follows": float(follows), "truncated": False}
    )


def test_tokens_are_those_of_the_row(pretrained: Client, trained: Path) -> None:
    tokenizer = bert_jax_package.load(trained).tokenizer
    found = pretrained.found("tokenize", text="A [MASK] ☂", pair="the lamp")
    ids = [token["id"] for token in found["tokens"]]
    a, (b,) = tokenizer.encode_masked("A [MASK] ☂"), tokenizer.encode(["the lamp"])
    assert ids == [tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]
    assert [token["position"] for token in found["tokens"]] == list(range(len(ids)))
    assert [token["segment"] for token in found["tokens"]] == [0] * (len(a) + 2) + [1] * (
        len(b) + 1
    )
    assert [token["piece"] for token in found["tokens"]] == [tokenizer.pieces[i] for i in ids]
    assert found["unknown"] == ids.count(tokenizer.unk_id) > 0


def test_attention_is_a_share_of_every_token(pretrained: Client) -> None:
    asked = {"text": "The captain finds the lamp.", "pair": "A child."}
    tokens = pretrained.found("tokenize", **asked)["tokens"]
    layers = [pretrained.found("attention", **asked, layer=layer) for layer in (1, 2)]
    for found in layers:
        heads = np.array(found["heads"])
        assert found["tokens"] == tokens
        assert heads.shape[1:] == (len(tokens), len(tokens))
        np.testing.assert_allclose(heads.sum(axis=-1), 1.0, atol=1e-3)
    assert layers[0]["heads"] != layers[1]["heads"]
    assert "layers 1 to 2" in pretrained.refused(422, "attention", **asked, layer=3)
    assert "tokens" in pretrained.refused(422, "attention", text="lamp " * 100)


def asked_of(task: str, source: Path) -> Iterator[dict[str, Any]]:
    """The inputs of a file of examples, as requests."""
    text = source.read_text("utf-8")
    if task in ("classification", "regression"):
        yield from ({"text": line.rpartition(",")[0]} for line in text.splitlines()[1:])
    elif task == "tagging":
        for block in text.strip().split("\n\n"):
            yield {"text": " ".join(line.split()[0] for line in block.splitlines())}
    elif task == "qa":
        for paragraph in json.loads(text)["data"][0]["paragraphs"]:
            question = paragraph["qas"][0]["question"]
            yield {"question": question, "context": paragraph["context"]}
    else:
        for record in map(json.loads, text.splitlines()):
            if task == "multiple-choice":
                yield {"text": record["text"], "choices": record["choices"]}
            else:
                # Sentences of a text are found by its lines.
                yield {"text": "\n".join(record["document"])}


@pytest.mark.parametrize("task", ["classification", "tagging", "qa"])
def test_a_fine_tuned_model_answers_as_predict_does(task: str, tmp_path: Path) -> None:
    run(options(task, tmp_path, tmp_path / "run", checkpoint__every=1000))
    source = tmp_path / f"validation.{FILES[task][1]}"
    expected = bert_jax_package.load(tmp_path / "run").predict(source)
    with served(tmp_path / "run") as client:
        described = json.loads(client.ask("GET", "/api/model")[2])
        assert described["abilities"][0] == task
        assert "fill-mask" not in described["abilities"]
        same_answers(client, task, source, expected)
        if task == "classification":
            _ranks(client)
        if task == "qa":
            found = client.found("qa", question="the man in?", context="the man " * 200 + "milk")
            assert found["answer"] in "the man " * 200 + "milk"
            assert "rows" in client.refused(422, "qa", question="a", context="b " * 4999)


@pytest.mark.parametrize("task", ["regression", "multiple-choice", "summarization"])
def test_so_does_one_of_any_other_task(task: str, tmp_path: Path) -> None:
    model = with_head(task, ["score"])
    make, ending, *_ = FILES[task]
    source = make(tmp_path / f"examples.{ending}", 8, 0)
    name, head, given = task_of(model)
    opened = open_task(name, given)
    examples = opened.read(str(source), Columns(), labelled=False)
    expected = predict(model, opened, head, examples, Layout(devices()[:1]))
    with served(model) as client:
        same_answers(client, task, source, expected)


def same_answers(client: Client, task: str, source: Path, expected: list[Any]) -> None:
    asked = list(zip(expected, asked_of(task, source), strict=True))[:8]
    for record, request in asked:
        near(client.found(task, **request), {k: v for k, v in record.items() if k != "id"})
    # Not the same of all.
    assert len({json.dumps(record | {"id": ""}) for record, _ in asked}) > 1


def _ranks(client: Client) -> None:
    passages = ["the man in a store", "the milk in a store", "the store"]
    found = client.found("ranking", query="the man", passages=passages)["ranking"]
    # The last class, "dry", stands for relevant.
    single = [
        client.found("classification", text="the man", pair=passage)["probabilities"]["dry"]
        for passage in passages
    ]
    near([one["score"] for one in found], sorted(single, reverse=True))
    assert [one["rank"] for one in found] == [1, 2, 3]
    assert sorted(one["index"] for one in found) == [0, 1, 2]
    assert client.found("classification", text="the man " * 50)["truncated"]


def test_concurrent_requests_share_calls_and_change_nothing(trained: Path) -> None:
    layout = Layout(devices()[:1])
    answers = Answers(open_model(trained, layout), layout)
    calls: list[tuple[str, int]] = []
    programs = answers.batcher._run

    def counted(name: str, rows: Any) -> Any:
        calls.append((name, len(rows)))
        return programs(name, rows)

    answers.batcher._run = counted
    texts = [f"The captain {'finds ' * (n % 7)}[MASK] boat." for n in range(24)]

    async def together() -> list[Any]:
        return await asyncio.gather(*(answers.fill_mask(text, 5) for text in texts))

    async def alone() -> list[Any]:
        return [await answers.fill_mask(text, 5) for text in texts]

    found = asyncio.run(together())
    assert sum(rows for _, rows in calls) == len(texts)
    assert len(calls) <= 4  # two lengths, at most 16 rows of each at a time
    near(found, asyncio.run(alone()))


def test_few_shapes_are_compiled(trained: Path) -> None:
    layout = Layout(devices()[:1])
    model = open_model(trained, layout)
    programs = Programs(model, model.tokenizer(), layout, None)
    rows = [
        {"token_ids": np.ones(n, np.int32), "segment_ids": np.zeros(n, np.int32)}
        for n in range(1, model.network.max_positions + 1)
    ]
    # Lengths 16, 32 and 64; 1, 2, 4 … rows of them.
    assert len({programs.kind(row) for row in rows}) == 3
    for count in (1, 2, 3, 4):
        programs.run("vector", rows[:count])
    assert programs._programs["vector"].func._cache_size() == 3


def test_a_failed_or_full_batch_leaves_nobody_waiting() -> None:
    def broken(name: str, rows: Any) -> Any:
        raise BadInputError(name)

    async def ask() -> None:
        batcher = Batcher(broken, lambda row: 0, most_waiting=3)
        row = {"token_ids": np.zeros(1, np.int32)}
        both = await asyncio.gather(
            batcher.results("a", [row]), batcher.results("a", [row]), return_exceptions=True
        )
        assert [type(one) for one in both] == [BadInputError] * 2
        with pytest.raises(OverloadedError):
            await batcher.results("a", [row] * 4)
        gone = asyncio.ensure_future(batcher.results("b", [row]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(BadInputError):
            await batcher.results("c", [row])

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_what_cannot_be_answered_is_said_in_a_line(pretrained: Client) -> None:
    refused = pretrained.refused
    assert "[MASK]" in refused(422, "fill-mask", text="the lamp")
    assert "masks" in refused(422, "fill-mask", text="[MASK]" * (MOST_MASKS + 1))
    assert "64" in refused(422, "fill-mask", text="lamp " * 200 + "[MASK]")
    assert "text" in refused(422, "fill-mask", text="\t \n")
    assert "blank" in refused(422, "tokenize", text="   ")
    assert "Unicode" in refused(422, "tokenize", text="\ud800")
    assert "top_k" in refused(422, "fill-mask", text="[MASK]", top_k=0)
    assert "top_k" in refused(422, "fill-mask", text="[MASK]", top_k="5")
    assert "mood" in refused(422, "fill-mask", text="[MASK]", mood="dry")
    assert str(CHARACTERS) in refused(422, "tokenize", text="a" * (CHARACTERS + 1))
    assert "16" in refused(422, "similarity", texts=["a"] * 17)
    assert "texts[1]" in refused(422, "similarity", texts=["a", 3])
    assert "fill-mask" in refused(404, "qa", question="who?", context="the man")


def test_requests_are_bounded_and_of_this_site(pretrained: Client) -> None:
    ask = pretrained.ask
    kind = {"Content_Type": "application/json"}
    path = "/api/tokenize"
    for code, method, where, body, headers in (
        (422, "POST", path, b"{", kind),
        (422, "POST", path, b"", kind),
        (400, "POST", path, b'{"text": "\xff"}', kind),
        (422, "POST", path, b"[" * 400, kind),
        (400, "POST", path, b"[" * 100_000, kind),
        (413, "POST", path, b" " * (BODY_BYTES + 1), kind),
        (413, "POST", path, None, kind | {"Content_Length": str(10**12)}),
        (415, "POST", path, b'{"text": "a"}', {"Content_Type": "text/plain"}),
        (403, "POST", path, b'{"text": "a"}', kind | {"Origin": "http://evil.example"}),
        (403, "POST", path, b'{"text": "a"}', kind | {"Origin": "null"}),
        (403, "POST", path, b'{"text": "a"}', kind | {"Origin": "http://[::"}),
        (403, "GET", "/", None, {"Host": "[::"}),
        (403, "GET", "/", None, {"Host": "evil.example"}),
        (403, "GET", "/", None, {"Host": "127.0.0.1.evil.example"}),
        (403, "GET", "/", None, {"Host": "192.168.1.1"}),
        (404, "GET", "/../../etc/passwd", None, {}),
        (405, "GET", path, None, {}),
        (405, "DELETE", "/health", None, {}),
    ):
        status, _, said = ask(method, where, body, **headers)
        assert status == code, (method, where, headers, said)
        assert list(json.loads(said)) == ["error"], said
        assert b"Traceback" not in said
    same = kind | {"Origin": pretrained.url.rstrip("/")}
    assert ask("POST", path, b'{"text": "a"}', **same)[0] == 200
    assert ask("GET", "/health", Host="localhost:1")[0] == 200
    assert ask("GET", "/health", Host="[::1]:80")[0] == 200
    everywhere = Hosts("0.0.0.0")  # noqa: S104
    assert everywhere.allows("192.168.1.1:8000")
    assert everywhere.allows(socket.gethostname())
    assert not everywhere.allows("evil.example:8000")


def test_the_page_comes_whole_and_may_load_nothing_else(pretrained: Client) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/style.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ):
        status, headers, content = pretrained.ask("GET", path)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
        assert b"https://" not in content
        for word in (b"innerHTML", b"insertAdjacentHTML", b"eval(", b" style=", b'onclick="'):
            assert word not in content
    assert json.loads(pretrained.ask("GET", "/health")[2]) == {"status": "ok"}
    for path in ("/docs", "/redoc"):
        assert pretrained.ask("GET", path)[0] == 404


def test_no_request_of_the_schema_or_against_it_makes_the_server_fail(pretrained: Client) -> None:
    schema = schemathesis.openapi.from_url(f"{pretrained.url}openapi.json")
    tried = 0
    for operation in schema.get_all_operations():
        found = operation.ok()

        @settings(
            max_examples=6,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=found.as_strategy())
        def fuzz(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=[not_a_server_error])

        fuzz()
    assert tried > 20


def test_the_command_serves_until_it_is_told_to_end() -> None:
    process = start("serve", MODEL, "--port", "0")
    said: list[str] = []
    assert process.stderr is not None
    try:
        while not said or "open http" not in said[-1]:
            said.append(process.stderr.readline())
            assert said[-1], said
        client = Client(said[-1].split()[1])
        assert client.found("fill-mask", text="the [MASK]", top_k=2)["masks"]
        port = client.address.rpartition(":")[2]
        refused(bert_jax("serve", MODEL, "--port", port), 69, port, "--port 0")
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0
        assert rest.strip() == "ended"
        assert "fill-mask, next-sentence" in "".join(said)
        assert "WARNING" not in "".join(said)
    finally:
        process.kill()
        process.communicate()


def test_what_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    refused(bert_jax("serve", tmp_path / "none", "--port", "0"), 78, "none")
    refused(bert_jax("serve", MODEL, "--port", "70000"), 64, "--port", "70000")
    refused(bert_jax("serve", MODEL, "--host", "no such host"), 64, "--host")
    refused(bert_jax("serve", MODEL, "--host", "192.0.2.1", "--port", "0"), 64, "127.0.0.1")


def test_without_the_extra_it_is_said_what_to_install() -> None:
    program = (
        "import sys; sys.modules['fastapi'] = None; sys.argv[1:] = ['serve', 'x'];"
        "from pipelines.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    refused(result, 64, "fastapi", "pip install 'bert-jax[serve]'")


def test_who_listens_to_others_is_warned(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    serve.main([str(MODEL), "--host", "0.0.0.0", "--port", "0"])  # noqa: S104
    assert {number: signal.getsignal(number) for number in before} == before
    said = capsys.readouterr().err
    assert "WARNING: --host 0.0.0.0" in said
