"""Identity, settings and status files of a host, also damaged ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.status_files import Heartbeat
from tpu.host.host_info import HostInfo, Settings


def test_hosts_of_several_slices_have_numbers_of_their_own(tmp_path: Path) -> None:
    attributes = tmp_path / "attributes"
    attributes.mkdir()
    environment = "ACCELERATOR_TYPE: 'v4-16'\nMEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'\n"
    values = {"bert-jax-run": "/run", "bert-jax-spec": "s", "bert-jax-attempt": "4",
              "agent-worker-number": "1", "worker-network-endpoints": "a,b",
              "tpu-env": environment}  # fmt: skip
    for name, value in values.items():
        (attributes / name).write_text(f"{value}\n", "utf-8")
    host = HostInfo.read(tmp_path)
    assert (host.worker, host.hosts, host.attempt, str(host.run)) == (5, 6, 4, "/run")
    # The attributes are read at every start, because a recovery may change them.
    (attributes / "tpu-env").write_text("ACCELERATOR_TYPE: 'v4-16'\n", "utf-8")
    assert (HostInfo.read(tmp_path).worker, HostInfo.read(tmp_path).hosts) == (1, 2)


@pytest.mark.parametrize(
    "text",
    ["", "3", "[" * 100_000, '{"worker": 0}', '{"worker": 0, "attempt": 1, "note": ["x"]}',
     '{"worker": 0, "attempt": true}', '{"worker": 0, "attempt": 1, "age": Infinity}', "\xff"],
)  # fmt: skip
def test_a_damaged_status_file_is_ignored(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status_files.write_heartbeat(tmp_path, Heartbeat(1, 1, note="fine"))
    (tmp_path / "status/worker-0.json").write_bytes(text.encode("latin-1"))
    assert [beat.worker for beat in status_files.read_status(tmp_path)[0].heartbeats] == [1]
    assert "worker-0.json ignored: it is not a status file" in capfd.readouterr().err


def test_a_pipe_in_the_run_folder_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    os.mkfifo(tmp_path / "status/worker-0.json")
    with pytest.raises(BadInputError, match="pipe or device"):
        status_files.read_status(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("bert-jax-attempt", ""), ("agent-worker-number", "-1"), ("agent-worker-number", "9" * 5000)],
)
def test_a_damaged_attribute_is_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "attributes").mkdir()
    others = ("worker-network-endpoints", "tpu-env", "bert-jax-run", "bert-jax-spec")
    for attribute in (*others, "bert-jax-attempt", "agent-worker-number"):
        (tmp_path / "attributes" / attribute).write_text(
            text if attribute == name else "1", "utf-8"
        )
    with pytest.raises(BadInputError, match=f"{name} is .*, not a number; restart"):
        HostInfo.read(tmp_path)


@pytest.mark.parametrize("text", ["", "3", "[" * 100_000, "{}", '{"devices": "8"}'])
def test_settings_of_another_version_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text(text, "utf-8")
    with pytest.raises(BadInputError, match=r"host\.json is damaged or from .*; submit again"):
        Settings.read(tmp_path)
