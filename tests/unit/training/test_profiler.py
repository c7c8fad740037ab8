"""Traces of single updates."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.profiler import steps_of
from pipelines.reports.write import write
from support.commands import invoke, refused, write_config
from support.report_page import read, table, text_of


def test_requested_updates_are_traced(config: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "what's traced"
    short = ["pretrain", "--config", write_config(config, tmp_path), "--run_dir", run]
    short += ["--phases", "[{length: 16, steps: 4}]"]
    refused(invoke(*short, "--profile", "3"), 78, "profile", "START:STOP")
    result = invoke(*short, "--profile", "1:3")
    assert result.returncode == 0, result.stderr
    assert "xprof" in result.stderr
    (trace,) = (run / "profile").rglob("*.xplane.pb")
    assert trace.parent.name == "updates-2-3"
    write([run], tmp_path / "out.html")
    root = read(tmp_path / "out.html")
    (link,) = (str(a.get("href")) for a in root.iter("a") if not a.get("href", "#").startswith("#"))
    assert (tmp_path / unquote(link)).samefile(run / "profile")
    assert table(root, "trace")[1:] == [["updates-2-3", "2 to 3"]]
    (opens,) = (text_of(code) for code in root.iter("code") if text_of(code).startswith("xprof "))
    assert shlex.split(opens) == ["xprof", "--logdir", str(run / "profile")]
    assert opens in result.stderr


@pytest.mark.parametrize(("text", "steps"), [("", []), ("0:1", [0]), ("100:103", [100, 101, 102])])
def test_a_range_selects_updates(text: str, steps: list[int]) -> None:
    assert list(steps_of(text)) == steps


@pytest.mark.parametrize("text", ["3", "3:3", "4:3", "-1:2", "a:b", "1:2:3"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="START:STOP"):
        steps_of(text)
