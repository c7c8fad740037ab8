"""The command ``bert-jax serve`` from its first line to its last."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pipelines.commands import serve
from support.commands import refused, run_process, run_python, start
from support.finetuned import MODEL
from support.model_server import Client


def test_the_command_serves_until_sigterm() -> None:
    process = start("serve", MODEL, "--port", "0")
    lines: list[str] = []
    assert process.stderr is not None
    try:
        while not lines or "open http" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        client = Client(lines[-1].split()[1])
        assert client.result("fill-mask", text="the [MASK]", top_k=2)["masks"]
        port = client.address.rpartition(":")[2]
        refused(run_process("serve", MODEL, "--port", port), 69, port, "--port 0")
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0
        assert rest.strip() == "server stopped"
        assert "fill-mask, next-sentence" in "".join(lines)
        assert "WARNING" not in "".join(lines)
    finally:
        process.kill()
        process.communicate()


def test_a_wrong_argument_is_reported_in_one_line(tmp_path: Path) -> None:
    refused(run_process("serve", tmp_path / "none", "--port", "0"), 78, "none")
    refused(run_process("serve", MODEL, "--port", "70000"), 64, "--port", "70000")
    refused(run_process("serve", MODEL, "--host", "no such host"), 64, "--host")
    refused(run_process("serve", MODEL, "--host", "192.0.2.1", "--port", "0"), 64, "127.0.0.1")


def test_without_the_extra_the_message_names_its_package() -> None:
    program = (
        "import sys; sys.modules['fastapi'] = None; sys.argv[1:] = ['serve', 'x'];"
        "from pipelines.commands.cli import main; main()"
    )
    refused(run_python(program), 64, "fastapi", "pip install 'bert-jax[serve]'")


def test_a_public_address_gives_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    serve.main([str(MODEL), "--host", "0.0.0.0", "--port", "0"])  # noqa: S104
    assert {number: signal.getsignal(number) for number in before} == before
    assert "WARNING: --host 0.0.0.0" in capsys.readouterr().err
