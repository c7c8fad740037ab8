"""The watcher and its commands against the cloud in memory, through Google's client over HTTP.

No machines run: what they would write into the run folder, the tests write.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bert_jax.errors import BadInputError, UnreachableError
from conftest import ROOT, refused
from tpu import markers
from tpu.config import TpuConfig
from tpu.explain import CloudError
from tpu.logs import Tail
from tpu.markers import ENDED, TRAINING, Beat, Ending, Markers
from tpu.provider import ENDPOINT, connect
from tpu.request import Launch, name_of, queued_resource, read_launch
from tpu.submit import submit
from tpu.testing import rest
from tpu.testing.cloud import Delays, FakeCloud
from tpu.watch import FailedError, Watcher, watch

ZONES = ("us-west4-a", "us-east5-b")
PROJECT = "my-project"


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """Grants nothing by itself; the rest takes no time."""
    made = FakeCloud(Delays(0.0, None, 0.0, 0.0, 0.0))
    yield made
    made.close()


@pytest.fixture
def url(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with rest.serve(cloud) as served:
        monkeypatch.setenv(ENDPOINT, served)
        yield served


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    run = str(tmp_path / "run")
    tpu = TpuConfig(accelerator="v4-16", zones=ZONES, project=PROJECT)
    return Launch(name_of(run), run, PROJECT, tpu, "0" * 64)


@pytest.fixture
def watcher(launch: Launch, url: str) -> Watcher:
    """Of a run that was submitted."""
    provider = connect(PROJECT)
    return Watcher(submit(launch, {}, provider), provider, back_off=(0.0, 0.0))


def tick(watcher: Watcher) -> str:
    """One look, and what follows from it; the status."""
    seen, decision = watcher.look()
    watcher.act(seen, decision)
    return decision.status


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def granted(cloud: FakeCloud, watcher: Watcher) -> None:
    cloud.advance(watcher.launch.name)
    until(lambda: cloud.state(watcher.launch.name) == "ACTIVE")


def hosts_say(watcher: Watcher, attempt: int, step: int, **values: Any) -> None:
    for worker in range(2):
        known = {"state": TRAINING, "step": step} | values
        markers.beat(watcher.run, Beat(worker, attempt, **known))


def gone(cloud: FakeCloud, watcher: Watcher) -> None:
    until(lambda: cloud.state(watcher.launch.name) == "")


def creations(cloud: FakeCloud) -> int:
    return sum(rpc == "CreateQueuedResource" for rpc, _ in cloud.calls)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "tpu", *arguments]


def tpu(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env={**os.environ, "GOOGLE_CLOUD_PROJECT": PROJECT, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_slice_is_made_again_after_preemption_until_the_run_is_done(
    cloud: FakeCloud, watcher: Watcher
) -> None:
    name = watcher.launch.name
    assert tick(watcher) == "QUEUED"
    granted(cloud, watcher)
    assert tick(watcher) == "BOOTING"
    hosts_say(watcher, 1, step=40)
    assert tick(watcher) == "RUNNING"
    cloud.preempt(name)
    until(lambda: cloud.state(name) == "SUSPENDED")
    assert tick(watcher) == "PREEMPTED"
    gone(cloud, watcher)
    assert tick(watcher) == "NEW"
    granted(cloud, watcher)
    # The heartbeats of the first slice are fresh, and say nothing of the second.
    assert tick(watcher) == "BOOTING"
    hosts_say(watcher, 2, step=80)
    markers.end(watcher.run, "DONE", Ending(watcher.launch.spec, 2, 80))
    watch(watcher, 0.05)
    assert cloud.state(name) == ""
    first, second = markers.look(watcher.run)[0].attempts
    assert (first.ended, first.step, first.ended_step) == ("preempted", -1, 40)
    assert (second.ended, second.step, second.ended_step) == ("done", 40, 80)


def test_a_node_that_is_preempted_while_its_resource_is_active_counts(
    cloud: FakeCloud, watcher: Watcher
) -> None:
    for attempt, strike in enumerate((cloud.node_preempted, cloud.node_gone), start=1):
        granted(cloud, watcher)
        hosts_say(watcher, attempt, step=attempt)
        assert tick(watcher) == "RUNNING"
        strike(watcher.launch.name)
        assert cloud.state(watcher.launch.name) == "ACTIVE"
        assert tick(watcher) == "PREEMPTED"
        gone(cloud, watcher)
        assert tick(watcher) == "NEW"


def test_a_slice_that_a_user_suspended_is_left_alone(cloud: FakeCloud, watcher: Watcher) -> None:
    granted(cloud, watcher)
    cloud.preempt(watcher.launch.name, by="USER")
    until(lambda: cloud.state(watcher.launch.name) == "SUSPENDED")
    watch(watcher, 0.05)
    assert cloud.state(watcher.launch.name) == "SUSPENDED"
    assert creations(cloud) == 1


def test_a_slice_that_was_deleted_by_hand_is_not_made_again(
    cloud: FakeCloud, watcher: Watcher
) -> None:
    granted(cloud, watcher)
    tick(watcher)
    watcher.provider.delete(ZONES[0], watcher.launch.name)
    gone(cloud, watcher)
    (attempt,) = markers.look(watcher.run)[0].attempts
    markers.record(watcher.run, replace(attempt, created=attempt.created - 3600))
    watch(watcher, 0.05)
    assert creations(cloud) == 1


def test_without_capacity_the_next_zone_is_tried(cloud: FakeCloud, watcher: Watcher) -> None:
    name = watcher.launch.name
    cloud.fail(name, 8, 'There is no more capacity in the zone "us-west4-a"; please try another')
    assert tick(watcher) == "FAILED"
    gone(cloud, watcher)
    assert tick(watcher) == "NEW"
    assert watcher.provider.describe(ZONES[0], name) is None
    found = watcher.provider.describe(ZONES[1], name)
    assert found is not None
    assert [a.zone for a in markers.look(watcher.run)[0].attempts] == list(ZONES)


def test_what_is_refused_at_once_in_one_zone_is_asked_for_in_the_next(
    cloud: FakeCloud, launch: Launch, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quota = "'TPUV4sPreemptiblePodPerProjectPerZoneForTPUAPI'"
    text = f"Quota limit {quota} has been exceeded. Limit: 0 in zone us-west4-a."
    cloud.refuse("RESOURCE_EXHAUSTED", text, rpc="CreateQueuedResource")
    watcher = Watcher(submit(launch, {}, connect(PROJECT)), connect(PROJECT))
    assert "quota" in capsys.readouterr().err.lower()
    assert tick(watcher) == "NEW"
    assert watcher.provider.describe(ZONES[1], launch.name) is not None


def test_a_refusal_that_no_zone_can_mend_ends_it_with_one_sentence(
    cloud: FakeCloud, launch: Launch, url: str
) -> None:
    text = "Permission 'tpu.nodes.create' denied on 'projects/my-project'"
    cloud.refuse("PERMISSION_DENIED", text, rpc="CreateQueuedResource")
    with pytest.raises(CloudError) as error:
        submit(launch, {}, connect(PROJECT))
    assert error.value.kind == "permission"
    assert "\n" not in str(error.value)


def test_a_slice_that_failed_for_good_is_deleted_and_the_watcher_says_why(
    cloud: FakeCloud, watcher: Watcher
) -> None:
    cloud.fail(watcher.launch.name, 3, "The runtime version is invalid")
    with pytest.raises(FailedError, match="failed"):
        watch(watcher, 0.05)
    assert cloud.state(watcher.launch.name) == ""


def test_a_run_that_failed_keeps_its_slice_only_when_asked(
    cloud: FakeCloud, watcher: Watcher
) -> None:
    granted(cloud, watcher)
    hosts_say(watcher, 1, 5, state=ENDED, exit_code=78, note="data.store is damaged")
    with pytest.raises(FailedError, match=r"worker 0 ended with 78: data\.store is damaged"):
        watch(replace(watcher, keep=True), 0.05)
    assert cloud.state(watcher.launch.name) == "ACTIVE"
    with pytest.raises(FailedError, match=r"data\.store is damaged"):
        watch(watcher, 0.05)
    assert cloud.state(watcher.launch.name) == ""


def test_an_outage_of_the_cloud_is_waited_out(
    cloud: FakeCloud, watcher: Watcher, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("tpu.provider._PATIENCE", 0.1)
    cloud.refuse("UNAVAILABLE", "The service is currently unavailable.", times=2)
    markers.end(watcher.run, "DONE", Ending(watcher.launch.spec, 1, 80))
    watch(watcher, 0.05)
    assert "looking again" in capsys.readouterr().err
    assert cloud.state(watcher.launch.name) == ""


def test_a_bucket_that_cannot_be_reached_for_a_while_is_waited_for(
    cloud: FakeCloud, watcher: Watcher, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    markers.end(watcher.run, "DONE", Ending(watcher.launch.spec, 1, 80))
    look, failures = markers.look, [UnreachableError("gs://bucket: no route")] * 2

    def sometimes(run: Path) -> tuple[Markers, float]:
        if failures:
            raise failures.pop()
        return look(run)

    monkeypatch.setattr(markers, "look", sometimes)
    watch(watcher, 0.05)
    assert capsys.readouterr().err.count("gs://bucket: no route (looking again)") == 2
    assert cloud.state(watcher.launch.name) == ""


def test_a_refusal_after_a_preemption_is_tried_again_in_a_single_zone_too(
    cloud: FakeCloud, launch: Launch, url: str
) -> None:
    single = replace(launch, tpu=replace(launch.tpu, zones=ZONES[:1]))
    provider = connect(PROJECT)
    watcher = Watcher(submit(single, {}, provider), provider, back_off=(0.0, 0.0))
    granted(cloud, watcher)
    cloud.preempt(launch.name)
    until(lambda: cloud.state(launch.name) == "SUSPENDED")
    assert tick(watcher) == "PREEMPTED"
    gone(cloud, watcher)
    text = 'There is no more capacity in the zone "us-west4-a"; you can try in another zone'
    cloud.refuse("RESOURCE_EXHAUSTED", text, rpc="CreateQueuedResource")
    assert tick(watcher) == "NEW"
    assert tick(watcher) == "NEW"
    assert tick(watcher) == "QUEUED"
    reasons = [attempt.ended for attempt in markers.look(watcher.run)[0].attempts]
    assert reasons == ["preempted", "capacity", ""]


def test_what_was_decided_too_long_ago_is_not_done(cloud: FakeCloud, watcher: Watcher) -> None:
    """A second watcher, or a laptop that slept, must not delete the slice that came after."""
    granted(cloud, watcher)
    cloud.preempt(watcher.launch.name)
    until(lambda: cloud.state(watcher.launch.name) == "SUSPENDED")
    old = watcher.look()
    assert old[1].do == "delete"
    assert tick(watcher) == "PREEMPTED"
    gone(cloud, watcher)
    assert tick(watcher) == "NEW"
    granted(cloud, watcher)
    watcher.act(*old)
    assert cloud.state(watcher.launch.name) == "ACTIVE"


def test_of_two_slices_the_first_stays(cloud: FakeCloud, watcher: Watcher) -> None:
    second = queued_resource(watcher.launch, ZONES[1], 2)
    watcher.provider.create(ZONES[1], watcher.launch.name, second)
    tick(watcher)
    until(lambda: watcher.provider.describe(ZONES[1], watcher.launch.name) is None)
    assert watcher.provider.describe(ZONES[0], watcher.launch.name) is not None


def test_a_slice_in_a_zone_that_is_not_named_any_more_is_not_forgotten(
    cloud: FakeCloud, watcher: Watcher, launch: Launch
) -> None:
    moved = replace(launch, tpu=replace(launch.tpu, zones=("us-central2-b",)))
    with pytest.raises(BadInputError, match=r"is in us-west4-a, which tpu\.zones does not name"):
        submit(moved, {}, watcher.provider)
    with pytest.raises(BadInputError, match="submitted in the project my-project"):
        submit(replace(launch, project="other-project"), {}, watcher.provider)
    assert creations(cloud) == 1
    wider = replace(launch, tpu=replace(launch.tpu, zones=(*ZONES, "us-central2-b"), max_wait=60))
    assert submit(wider, {}, watcher.provider) == read_launch(watcher.run)
    assert read_launch(watcher.run).tpu.max_wait == 60


def test_a_slice_that_is_dead_or_stopping_is_not_taken_up(
    cloud: FakeCloud, watcher: Watcher, launch: Launch
) -> None:
    granted(cloud, watcher)
    cloud.preempt(launch.name, by="USER")
    until(lambda: cloud.state(launch.name) == "SUSPENDED")
    made = submit(launch, {}, watcher.provider)
    assert (made.first, cloud.state(launch.name)) == (2, "WAITING_FOR_RESOURCES")
    markers.ask_to_stop(watcher.run)
    with pytest.raises(BadInputError, match="is being stopped"):
        submit(launch, {}, watcher.provider)


def test_a_failure_is_told_in_plain_words_to_the_end(cloud: FakeCloud, watcher: Watcher) -> None:
    cloud.fail(watcher.launch.name, 7, "Permission 'tpu.nodes.create' denied on resource 'p'")
    with pytest.raises(FailedError, match=r"roles/tpu\.admin"):
        watch(watcher, 0.05)
    with pytest.raises(FailedError, match=r"roles/tpu\.admin"):
        watch(watcher, 0.05)


def test_two_watchers_at_once_make_one_slice(cloud: FakeCloud, launch: Launch, url: str) -> None:
    provider = connect(PROJECT)
    made = submit(launch, {}, provider)
    provider.delete(ZONES[0], launch.name)
    until(lambda: cloud.state(launch.name) == "")
    (Path(launch.run) / "status" / "attempts" / "0001.json").unlink()
    cloud.calls.clear()
    together = threading.Barrier(2)
    failures: list[BaseException] = []

    def one() -> None:
        try:
            watcher = Watcher(made, connect(PROJECT))
            seen, decision = watcher.look()
            together.wait(10)  # both have seen that there is nothing
            watcher.act(seen, decision)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert creations(cloud) == 2
    assert len(provider.list(ZONES[0]) + provider.list(ZONES[1])) == 1
    assert len(markers.look(Path(launch.run))[0].attempts) == 1
    watcher = Watcher(made, provider)
    assert tick(watcher) == "QUEUED"


def test_a_watcher_that_is_killed_and_started_again_changes_nothing(
    cloud: FakeCloud, watcher: Watcher
) -> None:
    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command("watch", watcher.launch.run), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )

    def said(process: subprocess.Popen[str], words: str) -> None:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(words in line for line in lines), process.poll()

    expected = [("QUEUED", lambda: None), ("BOOTING", lambda: granted(cloud, watcher)),
                ("RUNNING", lambda: hosts_say(watcher, 1, 7))]  # fmt: skip
    for status, event in expected:
        event()
        process = started()
        said(process, status)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
    assert creations(cloud) == 1
    assert not [rpc for rpc, _ in cloud.calls if rpc.startswith("Delete")]
    (attempt,) = markers.look(watcher.run)[0].attempts
    assert (attempt.number, attempt.ended) == (1, "")


def test_what_was_submitted_is_taken_up_and_nothing_else_is(
    cloud: FakeCloud, watcher: Watcher, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(launch, {}, watcher.provider)
    assert "already" in capsys.readouterr().err
    assert creations(cloud) == 1
    other = replace(launch, tpu=replace(launch.tpu, capacity="on-demand"))
    with pytest.raises(BadInputError, match="other settings or code; first: python -m tpu stop"):
        submit(other, {}, watcher.provider)
    with pytest.raises(BadInputError, match="other settings or code"):
        Watcher(other, watcher.provider).look()
    assert creations(cloud) == 1


def test_a_slice_whose_making_was_not_written_down_is_taken_up(
    cloud: FakeCloud, watcher: Watcher
) -> None:
    """As when the watcher was killed between the request and its note."""
    (watcher.run / "status" / "attempts" / "0001.json").unlink()
    granted(cloud, watcher)
    assert tick(watcher) == "BOOTING"
    (attempt,) = markers.look(watcher.run)[0].attempts
    assert (attempt.number, attempt.active > 0) == (1, True)
    assert creations(cloud) == 1


def test_a_name_that_is_being_deleted_is_used_again_when_it_is_free(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = FakeCloud(Delays(0.0, None, 0.0, 0.0, 1.0))
    with rest.serve(cloud) as served:
        monkeypatch.setenv(ENDPOINT, served)
        provider = connect(PROJECT)
        submit(launch, {}, provider)
        provider.delete(ZONES[0], launch.name)
        other = replace(launch, tpu=replace(launch.tpu, capacity="on-demand"))
        made = submit(other, {}, provider)
        assert made.first == 2
        assert tick(Watcher(made, provider)) == "QUEUED"
        found = provider.describe(ZONES[0], launch.name)
        assert found is not None
        assert found.metadata["bert-jax-spec"] == other.spec
    cloud.close()


def test_a_done_run_is_not_submitted_again_and_a_failed_one_is(
    cloud: FakeCloud, watcher: Watcher, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    markers.end(watcher.run, "DONE", Ending(launch.spec, 1, 80))
    watch(watcher, 0.05)
    submit(launch, {}, watcher.provider)
    assert "is done, at step 80; nothing was submitted" in capsys.readouterr().err
    assert creations(cloud) == 1
    (watcher.run / "status" / "DONE.json").unlink()
    markers.end(watcher.run, "FAILED", Ending(launch.spec, 1, 80, "disk full"))
    made = submit(launch, {}, watcher.provider)
    assert made.first == 2
    assert tick(Watcher(made, watcher.provider)) == "QUEUED"


def test_ages_are_by_the_clock_of_the_storage(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's and the watcher's clocks are wrong by hours; nobody reads them."""
    hosts_say(watcher, 1, 5)
    monkeypatch.setattr(time, "time", lambda: 5_000_000_000.0)
    found, now = markers.look(watcher.run)
    assert now < 4_000_000_000
    assert all(0 <= beat.age < 60 for beat in found.beats)
    text = (watcher.run / "status" / "worker-0.json").read_text("utf-8")
    assert "age" not in text
    assert "time" not in text
    old = time.monotonic()  # any moment long ago
    os.utime(watcher.run / "status" / "worker-1.json", (old, old))
    assert markers.look(watcher.run)[0].beats[1].age > 1e6


def test_nothing_is_written_for_others_to_read(watcher: Watcher) -> None:
    hosts_say(watcher, 1, 5)
    markers.ask_to_stop(watcher.run)
    tick(watcher)
    for path in watcher.run.rglob("*"):
        assert not path.stat().st_mode & 0o077, path


def test_a_marker_that_cannot_be_read_is_passed_over(
    watcher: Watcher, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts_say(watcher, 1, 5)
    (watcher.run / "status" / "worker-0.json").write_text("{", "utf-8")
    (watcher.run / "status" / "worker-9.json").write_text('{"worker": 9, "speed": 3}', "utf-8")
    found, _ = markers.look(watcher.run)
    assert [beat.worker for beat in found.beats] == [1]
    assert "worker-0.json is no marker of this version" in capsys.readouterr().err


def test_a_folder_with_other_things_is_not_submitted_to(
    launch: Launch, url: str, cloud: FakeCloud
) -> None:
    Path(launch.run).mkdir()
    (Path(launch.run) / "thesis.tex").touch()
    with pytest.raises(BadInputError, match=r"holds other things \(thesis\.tex"):
        submit(launch, {}, connect(PROJECT))
    assert creations(cloud) == 0


def test_the_commands_tell_stop_delete_and_clean_up(cloud: FakeCloud, watcher: Watcher) -> None:
    run, name = watcher.launch.run, watcher.launch.name
    granted(cloud, watcher)
    hosts_say(watcher, 1, 1234, note="")
    told = tpu("status", run)
    assert told.returncode == 0, told.stderr
    assert f"{run}: RUNNING, step 1,234" in told.stdout
    assert "ACTIVE in us-west4-a" in told.stdout
    known = json.loads(tpu("status", run, "--json").stdout)
    assert [worker["step"] for worker in known["workers"]] == [1234, 1234]
    assert (known["status"], known["state"], known["zone"]) == ("RUNNING", "ACTIVE", ZONES[0])
    cloud.calls.clear()
    assert tpu("watch", run, "--dry-run").stdout == "RUNNING: step 1,234; next: wait\n"
    assert {rpc for rpc, _ in cloud.calls} <= {"GetQueuedResource", "GetNode"}
    assert tpu("delete", run).returncode == 0
    gone(cloud, watcher)
    # A watcher that is still there does not bring it back.
    watch(watcher, 0.05)
    assert creations(cloud) == 0
    made = submit(watcher.launch, {}, watcher.provider)
    stopped = tpu("stop", run)
    assert stopped.returncode == 0, stopped.stderr
    assert "STOPPED" in stopped.stderr
    gone(cloud, watcher)
    assert made.name == name


def test_gc_deletes_ours_that_are_dead_and_nothing_else(cloud: FakeCloud, watcher: Watcher) -> None:
    other = replace(watcher.launch, name="bert-alive")
    watcher.provider.create(ZONES[0], "bert-alive", queued_resource(other, ZONES[0], 1))
    foreign = queued_resource(replace(watcher.launch, name="theirs"), ZONES[0], 1)
    foreign.tpu.node_spec[0].node.labels.clear()
    watcher.provider.create(ZONES[0], "theirs", foreign)
    until(lambda: cloud.state("theirs") == "WAITING_FOR_RESOURCES")
    for name in (watcher.launch.name, "theirs"):
        cloud.fail(name, 8, "no more capacity")
    listed = tpu("gc", "--zones", *ZONES, "--dry-run", "--json")
    assert listed.returncode == 0, listed.stderr
    assert [found["name"] for found in json.loads(listed.stdout)] == [watcher.launch.name]
    assert cloud.state(watcher.launch.name) == "FAILED"
    assert tpu("gc", "--zones", *ZONES).returncode == 0
    gone(cloud, watcher)
    assert cloud.state("theirs") == "FAILED"
    assert cloud.state("bert-alive") == "WAITING_FOR_RESOURCES"
    # Its own watcher asks again, and does not take it for deleted by hand.
    assert tick(watcher) == "NEW"
    assert cloud.state(watcher.launch.name) == "WAITING_FOR_RESOURCES"
    refused(tpu("gc"), 64, "--zones")


def test_logs_are_those_of_the_newest_slice_line_by_line(watcher: Watcher) -> None:
    refused(tpu("logs", watcher.launch.run), 78, "no such log yet", "tpu status")
    for attempt, worker, text in ((1, 0, "old\n"), (2, 0, "one\ntwo\nhalf a li"), (2, 1, "uno\n")):
        path = markers.log_file(watcher.run, attempt, worker)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    told = tpu("logs", watcher.launch.run)
    assert told.stdout == "worker-0: one\nworker-0: two\nworker-1: uno\n"
    assert tpu("logs", watcher.launch.run, "--worker", "1").stdout == "worker-1: uno\n"
    assert tpu("logs", watcher.launch.run, "--attempt", "1").stdout == "worker-0: old\n"
    tail = Tail("w", markers.log_file(watcher.run, 2, 0), last=1)
    assert tail.new() == ["w: two"]
    with markers.log_file(watcher.run, 2, 0).open("a") as log:
        log.write("ne\nmore\n")
    assert tail.new() == ["w: half a line", "w: more"]
    markers.log_file(watcher.run, 2, 0).write_text("begun again\n", "utf-8")
    assert tail.new() == ["w: begun again"]


@pytest.mark.parametrize("name", ["watch", "status", "stop", "delete", "logs", "ssh"])
def test_a_folder_where_nothing_was_submitted_is_refused(name: str, tmp_path: Path) -> None:
    refused(tpu(name, str(tmp_path)), 78, str(tmp_path), "was never submitted")
    refused(tpu(name), 64, "RUN" if name != "ssh" else "give")


@pytest.mark.parametrize("text", ["", "3", "[" * 100_000, "{}", '{"tpu": {"zones": 3}}', "\ud800"])
def test_a_launch_of_a_stranger_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/launch.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInputError, match=r"launch\.json.*; submit again"):
        read_launch(tmp_path)


def test_logs_and_notes_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\x1b[2Ja\tb\xff\n")
    assert Tail("worker-0", tmp_path / "log", None).new() == [r"worker-0: \x1b[2Ja   b�"]
