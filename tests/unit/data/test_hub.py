"""Models of the Hugging Face hub: the right bytes in the cache, or one line."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from bert_jax.runtime.errors import BadInputError, UnreachableError, UserError
from pipelines.data.hub import download, repository
from pipelines.data.hub.models import model_folder, tokenizer_folder
from pipelines.data.tokenizers.fetch import tokenizer_folder as any_tokenizer
from support.commands import ROOT
from support.faulty_proxy import faulty_proxy
from support.hub_server import TOKEN, Hub, commit_of, impatient_client, use

MODEL = ROOT / "tests/golden/hugging_face"
WEIGHTS = "model.safetensors"
NAME = "hf:me/bert"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a model, whose client is this process."""
    folder = Path(shutil.copytree(MODEL, tmp_path / "server/bert"))
    for name in ("pytorch_model.bin", "model.fp16.safetensors", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not downloaded")
    repositories = {"models/me/bert": {"main": folder}}
    with impatient_client(monkeypatch, repositories, tmp_path / "home") as hub:
        yield hub


def served(hub: Hub) -> Path:
    return hub.repositories["models/me/bert"]["main"]


def equals(folder: Path, expected: Path) -> bool:
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return bool(names) and all(
        (folder / name).read_bytes() == (expected / name).read_bytes() for name in names
    )


def test_only_safetensors_and_small_files_are_downloaded(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(NAME)
    assert {path.name for path in folder.iterdir()} == {"config.json", "vocab.txt", WEIGHTS}
    assert equals(folder, MODEL)
    line = capsys.readouterr().err
    for path in (WEIGHTS, "vocab.txt", commit_of(served(hub))[:12], str(folder.parents[2])):
        assert path in line
    # The layout is that of huggingface_hub.
    assert Path(hf_hub_download("me/bert", WEIGHTS)) == folder / WEIGHTS
    assert hub.ranges(WEIGHTS) == [""]
    model_folder("hf://me/bert")
    assert hub.ranges(WEIGHTS) == [""]
    assert "all in the cache" in capsys.readouterr().err


def test_revisions_are_independent(hub: Hub, tmp_path: Path) -> None:
    other = Path(shutil.copytree(MODEL, tmp_path / "server/other"))
    (other / "vocab.txt").write_text("changed\n", "utf-8")
    hub.repositories["models/me/bert"] |= {"v1.0": other, "refs/pr/1": other}
    main = model_folder(NAME)
    for revision in ("v1.0", "refs/pr/1", commit_of(other)):
        folder = model_folder(f"{NAME}@{revision}")
        assert equals(folder, other)
        assert folder.name == commit_of(other)
        assert (folder / WEIGHTS).resolve() == (main / WEIGHTS).resolve()
    with pytest.raises(BadInputError, match="v2"):
        model_folder(f"{NAME}@v2")
    # A branch that moves.
    (served(hub) / "config.json").write_bytes((served(hub) / "config.json").read_bytes() + b"\n")
    assert model_folder(NAME).name == commit_of(served(hub)) != main.name


def test_shards_are_downloaded_with_their_index(hub: Hub) -> None:
    content = (served(hub) / WEIGHTS).read_bytes()
    (served(hub) / WEIGHTS).unlink()
    for name in ("model-00001-of-00002", "model-00002-of-00002", "pytorch_model-00001-of-00001"):
        (served(hub) / f"{name}.safetensors").write_bytes(content)
    (served(hub) / f"{WEIGHTS}.index.json").write_text("{}", "utf-8")
    names = {path.name for path in model_folder(NAME).iterdir()}
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= names
    assert "pytorch_model-00001-of-00001.safetensors" not in names


def test_an_interrupted_download_is_resumed(hub: Hub) -> None:
    size = (MODEL / WEIGHTS).stat().st_size
    hub.cuts[WEIGHTS] = [1000, 0, 500]
    assert equals(model_folder(NAME), MODEL)
    assert hub.ranges(WEIGHTS) == ["", "bytes=1000-", "bytes=1000-", "bytes=1500-"]
    assert size > 1500


def test_the_next_command_resumes_a_download(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.cuts[WEIGHTS] = [3000] + [0] * 1000
    with pytest.raises(UnreachableError, match="me/bert"):
        model_folder(NAME)
    (partial,) = (tmp_path / "home/hub").rglob("*.incomplete")
    assert partial.stat().st_size == 3000
    hub.cuts.clear()
    hub.requests.clear()
    assert equals(model_folder(NAME), MODEL)
    assert hub.ranges(WEIGHTS) == ["bytes=3000-"]
    assert "3.0 kB" in capsys.readouterr().err
    assert not list((tmp_path / "home").rglob("*.incomplete"))


def test_a_partial_file_of_other_bytes_is_replaced(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[WEIGHTS] = [3000] + [0] * 1000
    with pytest.raises(UnreachableError):
        model_folder(NAME)
    hub.cuts.clear()
    (partial,) = (tmp_path / "home/hub").rglob("*.incomplete")
    for content in (b"x" * 3000, b"x" * 10_000_000):
        partial.write_bytes(content)
        folder = model_folder(NAME)
        assert equals(folder, MODEL)
        (folder / WEIGHTS).resolve().unlink()


WRONG = {
    "another byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "short": lambda content: content[:-1],
    "long": lambda content: content + b"\0",
    "page of a proxy": lambda content: b"<html>Log in</html>",
    "pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("name", [WEIGHTS, "vocab.txt", "config.json"])
@pytest.mark.parametrize("fault", WRONG)
def test_wrong_bytes_are_not_used(hub: Hub, tmp_path: Path, name: str, fault: str) -> None:
    hub.wrong[name] = WRONG[fault]((MODEL / name).read_bytes())
    with pytest.raises(UnreachableError, match=name):
        model_folder(NAME)
    cached = [path for path in (tmp_path / "home").rglob(name) if path.is_file()]
    assert not cached
    hub.wrong.clear()
    assert equals(model_folder(NAME), MODEL)


def test_huggingface_hub_alone_would_use_another_byte(hub: Hub) -> None:
    # If this fails, `download` may leave more to huggingface_hub.
    hub.wrong[WEIGHTS] = WRONG["another byte"]((MODEL / WEIGHTS).read_bytes())
    path = Path(hf_hub_download("me/bert", WEIGHTS))
    assert path.read_bytes() == hub.wrong[WEIGHTS]
    hub.wrong.clear()
    # What another program left in the cache is compared, too.
    assert equals(model_folder(NAME), MODEL)


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = (model_folder(NAME) / WEIGHTS).resolve()
    path.write_bytes(WRONG["another byte"](path.read_bytes()))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInputError, match=WEIGHTS):
        model_folder(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert equals(model_folder(NAME), MODEL)


def test_offline_the_cache_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInputError, match="HF_HUB_OFFLINE"):
        model_folder(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    tokenizer_folder(NAME)
    online = model_folder(f"{NAME}@{commit_of(served(hub))}")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_folder(NAME) == online == model_folder(f"{NAME}@{online.name}")
    with any_tokenizer(NAME) as folder:
        assert folder == online
    assert not hub.requests
    (online / WEIGHTS).unlink()
    with pytest.raises(BadInputError, match="vocab"):
        model_folder(NAME)


def test_offline_a_branch_is_at_its_last_commit(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = served(hub)
    second = Path(shutil.copytree(MODEL, tmp_path / "server/second"))
    folders = [model_folder(NAME)]
    for folder in (second, first):  # forth and back: the second time everything is in the cache
        hub.repositories["models/me/bert"] |= {"main": folder, "v1": folder}
        folders += [model_folder(NAME), model_folder(f"{NAME}@v1")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_folder(NAME) == model_folder(f"{NAME}@v1") == folders[-1] == folders[0]
    assert folders[1].name == commit_of(second)


def test_without_network_the_cache_is_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(NAME)
    use(monkeypatch, "http://127.0.0.1:1", tmp_path / "home")
    capsys.readouterr()
    assert model_folder(NAME) == folder
    assert folder.name[:12] in capsys.readouterr().err
    use(monkeypatch, "http://127.0.0.1:1", tmp_path / "empty")
    with pytest.raises(UnreachableError, match="me/bert"):
        model_folder(NAME)


def test_repositories_that_cannot_be_read(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("hf:me/none", "hf:none"):
        with pytest.raises(BadInputError, match="hf auth login"):
            model_folder(name)
    hub.private.add("models/me/bert")
    with pytest.raises(BadInputError, match="private"):
        model_folder(NAME)
    use(monkeypatch, hub.url, tmp_path / "wrong", token="hf_wrong")  # noqa: S106
    with pytest.raises(BadInputError, match="token") as error:
        model_folder(NAME)
    assert "hf_wrong" not in str(error.value)
    use(monkeypatch, hub.url, tmp_path / "right", token=TOKEN)
    assert equals(model_folder(NAME), MODEL)
    # The store of large files is another host, which must not receive the token.
    assert all("Authorization" not in h for _, p, h in hub.requests if p.startswith("/store/"))
    hub.gated.add("models/me/bert")
    use(monkeypatch, hub.url, tmp_path / "gated", token=TOKEN)
    with pytest.raises(BadInputError, match=f"{hub.url}/me/bert"):
        model_folder(NAME)


def test_a_renamed_repository_is_followed(hub: Hub) -> None:
    hub.aliases |= {"bert-small": "me/bert"}
    assert equals(model_folder("hf:bert-small"), MODEL)


@pytest.mark.parametrize("fault", ["429", "503", "reset", "truncated", "reset in body"])
def test_a_busy_hub_is_requested_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    hub.large = None  # everything through the proxy
    with faulty_proxy(hub.url, fault) as proxy:
        use(monkeypatch, proxy.url, tmp_path / "proxied")
        assert equals(model_folder(NAME), MODEL)
        assert proxy.injected >= 3


@pytest.mark.parametrize("fault", ["401", "403", "404", "429", "500", "503", "reset", "truncated"])
def test_a_hub_that_never_answers_ends_with_a_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    with faulty_proxy(hub.url, fault, always=True) as proxy:
        use(monkeypatch, proxy.url, tmp_path / "proxied")
        with pytest.raises(UserError, match="me/bert") as error:
            model_folder(NAME)
    assert isinstance(error.value, BadInputError) == (fault in ("401", "403", "404"))


def test_a_slow_server_is_waited_for_as_long_as_bytes_arrive(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (download, repository):
        monkeypatch.setattr(module, "TIMEOUT", 0.2)
    hub.pause = 0.05
    assert equals(model_folder(NAME), MODEL)
    hub.pause = 0.3  # every answer is too slow, but each has some bytes
    use(monkeypatch, hub.url, tmp_path / "slow")
    monkeypatch.setattr(repository, "TIMEOUT", 30.0)
    assert equals(model_folder(NAME), MODEL)
    assert len(hub.ranges(WEIGHTS)) > 2
    with faulty_proxy(hub.url, "hang", always=True) as proxy:
        use(monkeypatch, proxy.url, tmp_path / "hanging")
        with pytest.raises(UnreachableError, match="me/bert"):
            model_folder(NAME)


@pytest.mark.parametrize(
    ("removed", "word"), [(WEIGHTS, "save_pretrained"), ("config.json", "config.json")]
)
def test_a_repository_without_safetensors_or_config(hub: Hub, removed: str, word: str) -> None:
    (served(hub) / removed).unlink()
    with pytest.raises(BadInputError, match=word) as error:
        model_folder(NAME)
    assert "pytorch_model.bin" in str(error.value)
    (served(hub) / "pytorch_model.bin").unlink()
    (served(hub) / "flax_model.msgpack").write_bytes(b"")
    with pytest.raises(BadInputError, match="flax_model"):
        model_folder(NAME)


def test_another_kind_of_model_is_refused_before_its_weights(hub: Hub) -> None:
    (served(hub) / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    with pytest.raises(BadInputError, match="llama"):
        model_folder(NAME)
    assert not hub.ranges(WEIGHTS)


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:me/bert/config.json", "hf:me/../bert", "hf:me/bert@", "hf:me/bert@../../x",
     "hf:https://huggingface.co/me/bert", "hf:me/bert:train", "hf:a b/c"],
)  # fmt: skip
def test_names_of_another_form(hub: Hub, name: str) -> None:
    with pytest.raises(BadInputError, match="ORG/NAME"):
        model_folder(name)
    assert not hub.requests


def test_a_home_that_cannot_be_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    use(monkeypatch, hub.url, tmp_path / "file")
    with pytest.raises(BadInputError, match="HF_HOME"):
        model_folder(NAME)
    (tmp_path / "home2/hub").mkdir(parents=True)
    (tmp_path / "home2/hub/models--me--bert").write_text("", "utf-8")
    use(monkeypatch, hub.url, tmp_path / "home2")
    with pytest.raises(BadInputError, match="models--me--bert"):
        model_folder(NAME)


def test_a_disk_that_fills_up_ends_the_download(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_shifted", fail)
    with pytest.raises(BadInputError, match="No space left"):
        model_folder(NAME)
    monkeypatch.undo()
    assert (tmp_path / "home/hub").is_dir()


def test_a_full_disk_is_noticed_before_the_download(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="HF_HOME"):
        model_folder(NAME)
    assert not hub.ranges(WEIGHTS)
