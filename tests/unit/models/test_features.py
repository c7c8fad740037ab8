"""Vectors of texts: the same from the command as from Python, in bounded memory, whole or not."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pyarrow.ipc
import pytest
from flax import nnx

import bert_jax as package
from bert_jax.nn.encoder import define
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.commands import extract_features
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models import features
from pipelines.models.api import Bert
from pipelines.models.features import Extraction, extract, rows_of
from pipelines.models.formats import feature_files
from support.commands import ROOT, invoke, refused, start

GOLDEN = ROOT / "tests/golden"
MODEL = GOLDEN / "hugging_face"
LONGEST = 40
# Other texts in a row, and longer rows, change the order of sums; states are below 8.
ROUNDING = 4e-6


@pytest.fixture(scope="module")
def bert() -> Bert:
    return package.load(MODEL)


@pytest.fixture(params=["WordPiece", "SentencePiece"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_dir: Path) -> Tokenizer:
    return tokenizers.load(MODEL if request.param == "WordPiece" else tokenizer_dir)


def lines(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 12 words; one in ten is longer than the model takes."""
    rng = random.Random(seed)  # noqa: S311
    some = "the man in a store and milk on singing, .".split()  # noqa: SIM905
    lengths = [rng.randint(1, 12) if n % 10 else 50 for n in range(1, count + 1)]
    return [" ".join(rng.choices(some, k=length)) for length in lengths]


def text_file(folder: Path, texts: list[str], name: str = "texts.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return path


def extracted(
    bert: Bert, folder: Path, texts: list[str], extraction: Extraction, name: str = "out.npz"
) -> dict[str, np.ndarray]:
    out = folder / name
    assert extract(bert, text_file(folder, texts), out, extraction) == len(texts)
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, "texts.txt"])
    arrays = dict(np.load(out))
    out.unlink()
    return arrays


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_the_file_contains_the_vectors_of_encode(
    bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    monkeypatch.setattr(features, "_CHUNK_TOKENS", 200)  # several are needed
    texts = [*lines(50), ""]
    extraction = Extraction((-1, 0, 1), pooling, batch_size=8)  # type: ignore[arg-type]
    arrays = extracted(bert, tmp_path, texts, extraction)
    assert list(arrays) == ["layer_-1", "layer_0", "layer_1"]
    for layer in extraction.layers:
        array = arrays[f"layer_{layer}"]
        assert array.dtype == np.float32
        expected = bert.encode(texts, layer, pooling)  # type: ignore[arg-type]
        np.testing.assert_allclose(array, np.stack(list(expected)), atol=ROUNDING, rtol=0)


def test_pooling_is_over_the_tokens_of_a_text(bert: Bert) -> None:
    texts = lines(30)
    tokens = bert.encode(texts, pooling=None)
    for pooling, reduce in (
        ("mean", lambda states: states.mean(axis=0)),
        ("max", lambda states: states.max(axis=0)),
        ("cls", lambda states: states[0]),
    ):
        vectors = bert.encode(texts, pooling=pooling)  # type: ignore[arg-type]
        expected = np.stack([reduce(states) for states in tokens])
        np.testing.assert_allclose(vectors, expected, atol=ROUNDING, rtol=0)


def test_without_pooling_there_is_a_vector_of_every_token(bert: Bert, tmp_path: Path) -> None:
    texts = lines(30)
    arrays = extracted(bert, tmp_path, texts, Extraction((-2,), None, batch_size=8))
    expected = bert.encode(texts, -2, None)
    offsets = arrays["offsets"]
    assert np.diff(offsets).tolist() == [len(vectors) for vectors in expected]
    np.testing.assert_allclose(arrays["layer_-2"], np.concatenate(expected), atol=ROUNDING, rtol=0)
    first = arrays["token_ids"][: offsets[1]].tolist()
    ids = bert.tokenizer.encode(texts[:1])[0]
    assert first == [bert.tokenizer.cls_id, *ids, bert.tokenizer.sep_id]


def test_a_word_is_the_mean_of_its_pieces(
    bert: Bert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # [CLS] the | man | s ##ing ##ing , | \u200b has no piece | milk [SEP]
    texts = ["the man  singing, \u200b milk", "  ", "man " * 50]
    arrays = extracted(bert, tmp_path, texts, Extraction((-1, 1), words=True))
    assert list(arrays) == ["layer_-1", "layer_1", "offsets"]
    for layer in (-1, 1):
        tokens = bert.encode(texts, layer, None)
        pieces = [bert.tokenizer.pieces[i] for i in bert.tokenizer.encode(texts[:1])[0]]
        assert pieces == ["the", "man", "s", "##ing", "##ing", ",", "milk"]
        word_states = [tokens[0][1:2], tokens[0][2:3], tokens[0][3:7], 0 * tokens[0][:1]]
        word_states += [tokens[0][7:8], *tokens[2][1 : LONGEST - 1, None]]
        expected = np.stack([states_of_word.mean(axis=0) for states_of_word in word_states])
        np.testing.assert_allclose(arrays[f"layer_{layer}"], expected, atol=ROUNDING, rtol=0)
    # Nothing of the second, of the third what the model takes.
    assert arrays["offsets"].tolist() == [0, 5, 5, 5 + LONGEST - 2]
    stderr = capsys.readouterr().err
    assert f"truncated to the {LONGEST} tokens of the model: 1" in stderr
    assert "texts without a word: 1" in stderr


def test_words_and_texts_have_the_same_tokens(tokenizer: Tokenizer) -> None:
    texts = [(text,) for text in [*lines(40), "", "  ", "a the  man\u00a0store"]]
    whole, by_word = (rows_of(tokenizer, texts, LONGEST, words) for words in (False, True))
    assert [row.token_ids for row in by_word] == [row.token_ids for row in whole]
    assert [row.is_truncated for row in by_word] == [row.is_truncated for row in whole]
    for (text,), row in zip(texts, by_word, strict=True):
        if not row.is_truncated:
            assert row.words == len(text.split())
            assert sorted({*row.word_ids} - {-1}) == list(range(row.words))


def test_a_pair_has_two_segments_and_the_longer_one_is_truncated(
    bert: Bert, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (row,) = rows_of(tokenizer, [("the a", "milk " * 90)], 12, words=True)
    a, b = (len(ids) for ids in tokenizer.encode(["the a", "milk " * 90]))
    assert (len(row.token_ids), row.is_truncated) == (12, True)
    assert row.token_type_ids == [0] * (a + 2) + [1] * (12 - a - 2)
    assert sum(word >= 2 for word in row.word_ids) == 12 - a - 3 < b
    assert (row.token_ids[a + 1], row.token_ids[-1]) == (tokenizer.sep_id, tokenizer.sep_id)
    # Both are long: of an uneven room the first has more.
    (row,) = rows_of(tokenizer, [("the " * 50, "a " * 50)], 10, words=False)
    assert row.token_type_ids == [0] * 6 + [1] * 4

    arrays = extracted(
        bert, tmp_path, ["the man ||| a ||| in a store", "milk"], Extraction((-1,), "cls")
    )
    ids = bert.tokenizer
    first, second = ids.encode(["the man ||| a", "in a store"])
    token_ids = np.array([[ids.cls_id, *first, ids.sep_id, *second, ids.sep_id]])
    segments = np.array([[0] * (len(first) + 2) + [1] * (len(second) + 1)])
    network = nnx.merge(define(bert.model.network), bert.model.weights.params).bert
    states = jax.jit(lambda *ids: network(*ids))(token_ids, segments, np.ones_like(token_ids))
    np.testing.assert_allclose(arrays["layer_-1"][0], states[0, 0], atol=ROUNDING, rtol=0)
    np.testing.assert_allclose(
        arrays["layer_-1"][1:], np.stack(list(bert.encode(["milk"], pooling="cls"))), atol=1e-6
    )


def test_json_lines_are_read_and_never_pairs(bert: Bert, tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text('{"text": "the ||| man"}\n\n{"text": "a\\nstore", "id": 3}\n', "utf-8")
    assert list(features.read(source)) == [("the ||| man",), ("a\nstore",)]
    extract(bert, source, tmp_path / "out.npz", Extraction())
    expected = bert.encode(["the ||| man", "a\nstore"])
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npz")["layer_-1"], np.stack(list(expected)), atol=1e-6
    )


@pytest.mark.parametrize(
    "extraction",
    [Extraction((-1, 0)), Extraction((-1,), None), Extraction((-1, 1), words=True)],
    ids=["pooled", "tokens", "words"],
)
def test_arrow_files_contain_the_same_vectors(
    bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extraction: Extraction
) -> None:
    monkeypatch.setattr(features, "_CHUNK_TOKENS", 200)
    texts = [*lines(40), ""]
    expected = extracted(bert, tmp_path, texts, extraction)
    extract(bert, tmp_path / "texts.txt", tmp_path / "out.arrow", extraction)
    with pyarrow.ipc.open_file(str(tmp_path / "out.arrow")) as file:
        assert file.num_record_batches > 1
        table = file.read_all()
    assert table.column_names == [name for name in expected if name != "offsets"]
    assert len(table) == len(texts)
    for name, column in zip(table.column_names, table.columns, strict=True):
        rows = column.to_pylist()
        if "offsets" in expected:
            assert [len(row) for row in rows] == np.diff(expected["offsets"]).tolist()
            rows = [vector for row in rows for vector in row]
        np.testing.assert_array_equal(np.array(rows, expected[name].dtype), expected[name])


def test_memory_does_not_grow_with_the_file(
    bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_CHUNK_TOKENS", 500)
    extraction = Extraction((-1, 0, 1), None)

    def peak(texts: list[str]) -> tuple[int, int]:
        folder = tmp_path / str(len(texts))
        folder.mkdir()
        source = text_file(folder, texts)
        tracemalloc.start()
        try:
            extract(bert, source, folder / "out.npz", extraction)
            return tracemalloc.get_traced_memory()[1], (folder / "out.npz").stat().st_size
        finally:
            tracemalloc.stop()

    peak(lines(99))  # programs are compiled
    (small, _), (large, written) = peak(lines(1200)), peak(lines(5000))
    assert large < 1.1 * small, (small, large)
    assert large < written / 4


def test_the_command_writes_the_file_and_reports_it(bert: Bert, tmp_path: Path) -> None:
    source = text_file(tmp_path, lines(20))
    out = tmp_path / "out.npz"
    options = ("--input", source, "--output", out, "--layers", "-1,-2", "--pooling", "max")
    result = invoke("extract-features", MODEL, *options)
    assert result.returncode == 0, result.stderr
    assert f"{out}: 20 texts, vectors of 32 numbers" in result.stderr
    arrays = np.load(out)
    assert list(arrays) == ["layer_-1", "layer_-2"]
    expected = np.stack(list(bert.encode(lines(20), -2, "max")))
    np.testing.assert_allclose(arrays["layer_-2"], expected, atol=1e-6)
    again = out.read_bytes()
    refused(invoke("extract-features", MODEL, *options), 78, "already exists")
    out.unlink()
    assert invoke("extract-features", MODEL, *options).returncode == 0
    assert out.read_bytes() == again


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    source = text_file(tmp_path, lines(200_000))
    options = ("--pooling", "none", "--input", source, "--output", tmp_path / "out.npz")
    process = start("extract-features", MODEL, *options)
    try:
        ends = time.monotonic() + 120
        # The first part that is written to.
        while not any(tmp_path.glob("out.npz.*/layer_-1")) and time.monotonic() < ends:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, stderr
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


def test_a_failure_leaves_nothing(
    bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(feature_files.NpzWriter, "finish", full)
    source = text_file(tmp_path, lines(9))
    with pytest.raises(OSError, match="No space"):
        extract(bert, source, tmp_path / "out.npz", Extraction())
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layers", "-1,x"], "--layers '-1,x'"),
        (["--layers", "3"], "layer 3 does not exist; use 0 .* to 2"),
        (["--layers", "-1,2"], "names a layer twice"),
        (["--batch-size", "0"], "--batch-size"),
        (["--pooling", "sum"], "sum"),
        (["--words", "--pooling", "max"], "cannot be combined"),
        (["--output", "out.csv"], r"must end in \.npz or \.arrow, not '\.csv'"),
        (["--output", "nowhere/out.npz"], "folder nowhere does not exist"),
        (["--output"], "--output"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text_file(tmp_path, ["the man"])
    usual = [] if "--output" in options else ["--output", "out.npz"]
    with pytest.raises(BadArgumentsError, match=words):
        extract_features.main([str(MODEL), "--input", "texts.txt", *usual, *options])
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "a.txt contains no text"),
        ("a.jsonl", b"\n", "contains no text"),
        ("a.csv", b"a", "must end in .txt"),
        ("a.txt", b"the man\ncaf\xe9\n", "a.txt, line 2: byte 0xe9 in column 4"),
        ("a.txt", "the".encode("utf-16"), "a.txt, line 1"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "a"}\n', "line 2 has no field 'text'.* 'txt'"),
        ("a.jsonl", b'{"text": 3}\n', "line 1: field 'text' is 3"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "surrogate"),
    ],
)
def test_wrong_input_is_reported_before_any_computation(
    bert: Bert, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=words):
        extract(bert, tmp_path / name, tmp_path / "out.npz", Extraction())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_text_of_a_hundred_thousand_words_is_truncated(bert: Bert, tmp_path: Path) -> None:
    arrays = extracted(bert, tmp_path, ["man " * 100_000, "man"], Extraction(words=True))
    assert arrays["offsets"].tolist() == [0, LONGEST - 2, LONGEST - 1]
    assert json.dumps(arrays["layer_-1"].shape) == "[39, 32]"
