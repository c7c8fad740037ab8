"""The commands submit, status, watch, stop, delete, gc and logs against the fake cloud."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.status_files import Outcome
from support.commands import refused
from support.scripted_cloud import ScriptedCloud
from support.submitted_run import (
    PROJECT,
    ZONES,
    creations,
    gone,
    granted,
    hosts_say,
    tick,
    tpu,
)
from support.waiting import wait_until
from tpu.launch.logs import Tail
from tpu.launch.provider import ENDPOINT, connect
from tpu.launch.request import Launch, queued_resource, read_launch
from tpu.launch.submit import submit
from tpu.launch.watch import Watcher, watch
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays

pytest_plugins = ["support.submitted_run"]


def test_only_the_submitted_launch_is_resumed(
    cloud: ScriptedCloud, watcher: Watcher, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(launch, {}, watcher.provider)
    assert "already" in capsys.readouterr().err
    assert creations(cloud) == 1
    other = replace(launch, tpu=replace(launch.tpu, capacity="on-demand"))
    with pytest.raises(BadInputError, match="other settings or code; first run: bert-jax tpu stop"):
        submit(other, {}, watcher.provider)
    with pytest.raises(BadInputError, match="other settings or code"):
        Watcher(other, watcher.provider).observe()
    assert creations(cloud) == 1


def test_a_slice_without_a_record_of_its_creation_is_adopted(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    """As after a watcher was killed between the request and its record."""
    (watcher.run / "status" / "attempts" / "0001.json").unlink()
    granted(cloud, watcher)
    assert tick(watcher) == "BOOTING"
    (attempt,) = status_files.read_status(watcher.run)[0].attempts
    assert (attempt.number, attempt.active > 0) == (1, True)
    assert creations(cloud) == 1


def test_a_name_that_is_being_deleted_is_used_again_when_it_is_free(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = ScriptedCloud(Delays(0.0, None, 0.0, 0.0, 1.0))
    with fake_rest.serve(cloud) as url:
        monkeypatch.setenv(ENDPOINT, url)
        provider = connect(PROJECT)
        submit(launch, {}, provider)
        provider.delete(ZONES[0], launch.name)
        other = replace(launch, tpu=replace(launch.tpu, capacity="on-demand"))
        launched = submit(other, {}, provider)
        assert launched.first == 2
        assert tick(Watcher(launched, provider)) == "QUEUED"
        resource = provider.describe(ZONES[0], launch.name)
        assert resource is not None
        assert resource.metadata["bert-jax-spec"] == other.spec
    cloud.close()


def test_a_done_run_is_not_submitted_again_and_a_failed_one_is(
    cloud: ScriptedCloud, watcher: Watcher, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    status_files.write_outcome(watcher.run, "DONE", Outcome(launch.spec, 1, 80))
    watch(watcher, 0.05)
    submit(launch, {}, watcher.provider)
    assert "is complete at step 80; nothing was submitted" in capsys.readouterr().err
    assert creations(cloud) == 1
    (watcher.run / "status" / "DONE.json").unlink()
    status_files.write_outcome(watcher.run, "FAILED", Outcome(launch.spec, 1, 80, "disk full"))
    launched = submit(launch, {}, watcher.provider)
    assert launched.first == 2
    assert tick(Watcher(launched, watcher.provider)) == "QUEUED"


def test_a_folder_with_other_things_is_not_submitted_to(
    launch: Launch, url: str, cloud: ScriptedCloud
) -> None:
    Path(launch.run).mkdir()
    (Path(launch.run) / "thesis.tex").touch()
    with pytest.raises(BadInputError, match=r"contains other files \(thesis\.tex"):
        submit(launch, {}, connect(PROJECT))
    assert creations(cloud) == 0


def test_status_watch_delete_and_stop(cloud: ScriptedCloud, watcher: Watcher) -> None:
    run, name = watcher.launch.run, watcher.launch.name
    granted(cloud, watcher)
    hosts_say(watcher, 1, 1234, note="")
    result = tpu("status", run)
    assert result.returncode == 0, result.stderr
    assert f"{run}: RUNNING, step 1,234" in result.stdout
    assert "ACTIVE in us-west4-a" in result.stdout
    report = json.loads(tpu("status", run, "--json").stdout)
    assert [worker["step"] for worker in report["workers"]] == [1234, 1234]
    assert (report["status"], report["state"], report["zone"]) == ("RUNNING", "ACTIVE", ZONES[0])
    cloud.calls.clear()
    assert tpu("watch", run, "--dry-run").stdout == "RUNNING: step 1,234; next: wait\n"
    assert {rpc for rpc, _ in cloud.calls} <= {"GetQueuedResource", "GetNode"}
    assert tpu("delete", run).returncode == 0
    gone(cloud, watcher)
    # A running watcher does not create it again.
    watch(watcher, 0.05)
    assert creations(cloud) == 0
    launched = submit(watcher.launch, {}, watcher.provider)
    stopped = tpu("stop", run)
    assert stopped.returncode == 0, stopped.stderr
    assert "STOPPED" in stopped.stderr
    gone(cloud, watcher)
    assert launched.name == name


def test_gc_deletes_ours_that_are_dead_and_nothing_else(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    other = replace(watcher.launch, name="bert-alive")
    watcher.provider.create(ZONES[0], "bert-alive", queued_resource(other, ZONES[0], 1))
    foreign = queued_resource(replace(watcher.launch, name="theirs"), ZONES[0], 1)
    foreign.tpu.node_spec[0].node.labels.clear()
    watcher.provider.create(ZONES[0], "theirs", foreign)
    wait_until(lambda: cloud.state("theirs") == "WAITING_FOR_RESOURCES")
    for name in (watcher.launch.name, "theirs"):
        cloud.fail(name, 8, "no more capacity")
    listed = tpu("gc", "--zones", *ZONES, "--dry-run", "--json")
    assert listed.returncode == 0, listed.stderr
    assert [resource["name"] for resource in json.loads(listed.stdout)] == [watcher.launch.name]
    assert cloud.state(watcher.launch.name) == "FAILED"
    assert tpu("gc", "--zones", *ZONES).returncode == 0
    gone(cloud, watcher)
    assert cloud.state("theirs") == "FAILED"
    assert cloud.state("bert-alive") == "WAITING_FOR_RESOURCES"
    # Its watcher requests another slice and does not treat it as deleted by hand.
    assert tick(watcher) == "NEW"
    assert cloud.state(watcher.launch.name) == "WAITING_FOR_RESOURCES"
    refused(tpu("gc"), 64, "--zones")


def test_logs_are_those_of_the_newest_slice_line_by_line(watcher: Watcher) -> None:
    refused(tpu("logs", watcher.launch.run), 78, "no such log yet", "tpu status")
    for attempt, worker, text in ((1, 0, "old\n"), (2, 0, "one\ntwo\nhalf a li"), (2, 1, "uno\n")):
        path = status_files.log_file(watcher.run, attempt, worker)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    result = tpu("logs", watcher.launch.run)
    assert result.stdout == "worker-0: one\nworker-0: two\nworker-1: uno\n"
    assert tpu("logs", watcher.launch.run, "--worker", "1").stdout == "worker-1: uno\n"
    assert tpu("logs", watcher.launch.run, "--attempt", "1").stdout == "worker-0: old\n"
    tail = Tail("w", status_files.log_file(watcher.run, 2, 0), last=1)
    assert tail.new() == ["w: two"]
    with status_files.log_file(watcher.run, 2, 0).open("a") as log:
        log.write("ne\nmore\n")
    assert tail.new() == ["w: half a line", "w: more"]
    status_files.log_file(watcher.run, 2, 0).write_text("begun again\n", "utf-8")
    assert tail.new() == ["w: begun again"]


@pytest.mark.parametrize("name", ["watch", "status", "stop", "delete", "logs", "ssh"])
def test_a_folder_without_a_launch_is_refused(name: str, tmp_path: Path) -> None:
    refused(tpu(name, str(tmp_path)), 78, str(tmp_path), "was not submitted")
    refused(tpu(name), 64, "RUN" if name != "ssh" else "give")


@pytest.mark.parametrize("text", ["", "3", "[" * 100_000, "{}", '{"tpu": {"zones": 3}}', "\ud800"])
def test_a_damaged_launch_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/launch.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInputError, match=r"launch\.json.*; submit again"):
        read_launch(tmp_path)


def test_a_launch_without_zones_is_refused(watcher: Watcher) -> None:
    file = watcher.run / "launch" / "launch.json"
    launch = json.loads(file.read_text("utf-8"))
    launch["tpu"]["zones"] = []
    file.write_text(json.dumps(launch), "utf-8")
    with pytest.raises(BadInputError, match=r"launch\.json.*zones.*; submit again"):
        read_launch(watcher.run)


def test_logs_and_notes_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\x1b[2Ja\tb\xff\n")
    assert Tail("worker-0", tmp_path / "log", None).new() == [r"worker-0: \x1b[2Ja   b�"]
