"""The watcher against the fake cloud, through Google's client over HTTP.

No hosts run: the tests write their files to the run folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadInputError, UnreachableError
from bert_jax.runtime.status_files import ENDED, Outcome, RunStatus
from support.commands import ROOT
from support.scripted_cloud import ScriptedCloud
from support.submitted_run import (
    PROJECT,
    ZONES,
    command,
    creations,
    gone,
    granted,
    hosts_say,
    tick,
)
from support.waiting import wait_until
from tpu.launch.api_errors import CloudError
from tpu.launch.provider import connect
from tpu.launch.request import Launch, queued_resource, read_launch
from tpu.launch.submit import submit
from tpu.launch.watch import FailedError, Watcher, watch

pytest_plugins = ["support.submitted_run"]


def test_a_slice_is_made_again_after_preemption_until_the_run_is_done(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    name = watcher.launch.name
    assert tick(watcher) == "QUEUED"
    granted(cloud, watcher)
    assert tick(watcher) == "BOOTING"
    hosts_say(watcher, 1, step=40)
    assert tick(watcher) == "RUNNING"
    cloud.preempt(name)
    wait_until(lambda: cloud.state(name) == "SUSPENDED")
    assert tick(watcher) == "PREEMPTED"
    gone(cloud, watcher)
    assert tick(watcher) == "NEW"
    granted(cloud, watcher)
    # The heartbeats of the first slice are fresh but do not count for the second.
    assert tick(watcher) == "BOOTING"
    hosts_say(watcher, 2, step=80)
    status_files.write_outcome(watcher.run, "DONE", Outcome(watcher.launch.spec, 2, 80))
    watch(watcher, 0.05)
    assert cloud.state(name) == ""
    first, second = status_files.read_status(watcher.run)[0].attempts
    assert (first.ended, first.step, first.ended_step) == ("preempted", -1, 40)
    assert (second.ended, second.step, second.ended_step) == ("done", 40, 80)


def test_a_node_that_is_preempted_while_its_resource_is_active_counts(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    for attempt, remove in enumerate((cloud.node_preempted, cloud.node_gone), start=1):
        granted(cloud, watcher)
        hosts_say(watcher, attempt, step=attempt)
        assert tick(watcher) == "RUNNING"
        remove(watcher.launch.name)
        assert cloud.state(watcher.launch.name) == "ACTIVE"
        assert tick(watcher) == "PREEMPTED"
        gone(cloud, watcher)
        assert tick(watcher) == "NEW"


def test_a_slice_that_a_user_suspended_is_left_alone(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    granted(cloud, watcher)
    cloud.preempt(watcher.launch.name, by="USER")
    wait_until(lambda: cloud.state(watcher.launch.name) == "SUSPENDED")
    watch(watcher, 0.05)
    assert cloud.state(watcher.launch.name) == "SUSPENDED"
    assert creations(cloud) == 1


def test_a_slice_that_was_deleted_by_hand_is_not_made_again(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    granted(cloud, watcher)
    tick(watcher)
    watcher.provider.delete(ZONES[0], watcher.launch.name)
    gone(cloud, watcher)
    (attempt,) = status_files.read_status(watcher.run)[0].attempts
    status_files.write_attempt(watcher.run, replace(attempt, created=attempt.created - 3600))
    watch(watcher, 0.05)
    assert creations(cloud) == 1


def test_without_capacity_the_next_zone_is_tried(cloud: ScriptedCloud, watcher: Watcher) -> None:
    name = watcher.launch.name
    cloud.fail(name, 8, 'There is no more capacity in the zone "us-west4-a"; please try another')
    assert tick(watcher) == "FAILED"
    gone(cloud, watcher)
    assert tick(watcher) == "NEW"
    assert watcher.provider.describe(ZONES[0], name) is None
    assert watcher.provider.describe(ZONES[1], name) is not None
    assert [a.zone for a in status_files.read_status(watcher.run)[0].attempts] == list(ZONES)


def test_a_request_that_one_zone_refuses_is_sent_to_the_next(
    cloud: ScriptedCloud, launch: Launch, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quota = "'TPUV4sPreemptiblePodPerProjectPerZoneForTPUAPI'"
    text = f"Quota limit {quota} has been exceeded. Limit: 0 in zone us-west4-a."
    cloud.refuse("RESOURCE_EXHAUSTED", text, rpc="CreateQueuedResource")
    watcher = Watcher(submit(launch, {}, connect(PROJECT)), connect(PROJECT))
    assert "quota" in capsys.readouterr().err.lower()
    assert tick(watcher) == "NEW"
    assert watcher.provider.describe(ZONES[1], launch.name) is not None


def test_a_refusal_that_no_zone_can_mend_ends_it_with_one_sentence(
    cloud: ScriptedCloud, launch: Launch, url: str
) -> None:
    text = "Permission 'tpu.nodes.create' denied on 'projects/my-project'"
    cloud.refuse("PERMISSION_DENIED", text, rpc="CreateQueuedResource")
    with pytest.raises(CloudError) as error:
        submit(launch, {}, connect(PROJECT))
    assert error.value.kind == "permission"
    assert "\n" not in str(error.value)


def test_a_slice_that_failed_for_good_is_deleted_with_a_reason(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    cloud.fail(watcher.launch.name, 3, "The runtime version is invalid")
    with pytest.raises(FailedError, match="failed"):
        watch(watcher, 0.05)
    assert cloud.state(watcher.launch.name) == ""


def test_a_failed_run_keeps_its_slice_only_on_request(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    granted(cloud, watcher)
    hosts_say(watcher, 1, 5, state=ENDED, exit_code=78, note="data.store is damaged")
    with pytest.raises(FailedError, match=r"exit code 78: data\.store is damaged"):
        watch(replace(watcher, keep=True), 0.05)
    assert cloud.state(watcher.launch.name) == "ACTIVE"
    with pytest.raises(FailedError, match=r"data\.store is damaged"):
        watch(watcher, 0.05)
    assert cloud.state(watcher.launch.name) == ""


def test_an_outage_of_the_cloud_is_waited_out(
    cloud: ScriptedCloud, watcher: Watcher, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("tpu.launch.provider._RETRY_TIME", 0.1)
    cloud.refuse("UNAVAILABLE", "The service is currently unavailable.", times=2)
    status_files.write_outcome(watcher.run, "DONE", Outcome(watcher.launch.spec, 1, 80))
    watch(watcher, 0.05)
    assert "(retrying)" in capsys.readouterr().err
    assert cloud.state(watcher.launch.name) == ""


def test_a_bucket_that_cannot_be_reached_for_a_while_is_waited_for(
    cloud: ScriptedCloud, watcher: Watcher, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    status_files.write_outcome(watcher.run, "DONE", Outcome(watcher.launch.spec, 1, 80))
    read_status = status_files.read_status
    failures = [UnreachableError("gs://bucket: no route")] * 2

    def sometimes(run: Path) -> tuple[RunStatus, float]:
        if failures:
            raise failures.pop()
        return read_status(run)

    monkeypatch.setattr(status_files, "read_status", sometimes)
    watch(watcher, 0.05)
    assert capsys.readouterr().err.count("gs://bucket: no route (retrying)") == 2
    assert cloud.state(watcher.launch.name) == ""


def test_a_refusal_after_a_preemption_is_tried_again_in_a_single_zone_too(
    cloud: ScriptedCloud, launch: Launch, url: str
) -> None:
    single = replace(launch, tpu=replace(launch.tpu, zones=ZONES[:1]))
    provider = connect(PROJECT)
    watcher = Watcher(submit(single, {}, provider), provider, back_off=(0.0, 0.0))
    granted(cloud, watcher)
    cloud.preempt(launch.name)
    wait_until(lambda: cloud.state(launch.name) == "SUSPENDED")
    assert tick(watcher) == "PREEMPTED"
    gone(cloud, watcher)
    text = 'There is no more capacity in the zone "us-west4-a"; you can try in another zone'
    cloud.refuse("RESOURCE_EXHAUSTED", text, rpc="CreateQueuedResource")
    assert tick(watcher) == "NEW"
    assert tick(watcher) == "NEW"
    assert tick(watcher) == "QUEUED"
    reasons = [attempt.ended for attempt in status_files.read_status(watcher.run)[0].attempts]
    assert reasons == ["preempted", "capacity", ""]


def test_an_old_decision_is_not_carried_out(cloud: ScriptedCloud, watcher: Watcher) -> None:
    """A second watcher, or a laptop after sleep, must not delete the next slice."""
    granted(cloud, watcher)
    cloud.preempt(watcher.launch.name)
    wait_until(lambda: cloud.state(watcher.launch.name) == "SUSPENDED")
    old = watcher.observe()
    assert old[1].action == "delete"
    assert tick(watcher) == "PREEMPTED"
    gone(cloud, watcher)
    assert tick(watcher) == "NEW"
    granted(cloud, watcher)
    watcher.act(*old)
    assert cloud.state(watcher.launch.name) == "ACTIVE"


def test_of_two_slices_the_first_stays(cloud: ScriptedCloud, watcher: Watcher) -> None:
    second = queued_resource(watcher.launch, ZONES[1], 2)
    watcher.provider.create(ZONES[1], watcher.launch.name, second)
    tick(watcher)
    wait_until(lambda: watcher.provider.describe(ZONES[1], watcher.launch.name) is None)
    assert watcher.provider.describe(ZONES[0], watcher.launch.name) is not None


def test_a_slice_in_a_zone_that_is_not_named_any_more_is_not_forgotten(
    cloud: ScriptedCloud, watcher: Watcher, launch: Launch
) -> None:
    in_other_zone = replace(launch, tpu=replace(launch.tpu, zones=("us-central2-b",)))
    with pytest.raises(BadInputError, match=r"is in us-west4-a, which is not in tpu\.zones"):
        submit(in_other_zone, {}, watcher.provider)
    with pytest.raises(BadInputError, match="submitted in project my-project"):
        submit(replace(launch, project="other-project"), {}, watcher.provider)
    assert creations(cloud) == 1
    wider = replace(launch, tpu=replace(launch.tpu, zones=(*ZONES, "us-central2-b"), max_wait=60))
    assert submit(wider, {}, watcher.provider) == read_launch(watcher.run)
    assert read_launch(watcher.run).tpu.max_wait == 60


def test_a_slice_that_is_dead_or_stopping_is_not_taken_up(
    cloud: ScriptedCloud, watcher: Watcher, launch: Launch
) -> None:
    granted(cloud, watcher)
    cloud.preempt(launch.name, by="USER")
    wait_until(lambda: cloud.state(launch.name) == "SUSPENDED")
    launched = submit(launch, {}, watcher.provider)
    assert (launched.first, cloud.state(launch.name)) == (2, "WAITING_FOR_RESOURCES")
    status_files.request_stop(watcher.run)
    with pytest.raises(BadInputError, match="is being stopped"):
        submit(launch, {}, watcher.provider)


def test_failures_are_reported_in_plain_words_until_the_end(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    cloud.fail(watcher.launch.name, 7, "Permission 'tpu.nodes.create' denied on resource 'p'")
    with pytest.raises(FailedError, match=r"roles/tpu\.admin"):
        watch(watcher, 0.05)
    with pytest.raises(FailedError, match=r"roles/tpu\.admin"):
        watch(watcher, 0.05)


def test_two_watchers_at_once_make_one_slice(
    cloud: ScriptedCloud, launch: Launch, url: str
) -> None:
    provider = connect(PROJECT)
    launched = submit(launch, {}, provider)
    provider.delete(ZONES[0], launch.name)
    wait_until(lambda: cloud.state(launch.name) == "")
    (Path(launch.run) / "status" / "attempts" / "0001.json").unlink()
    cloud.calls.clear()
    together = threading.Barrier(2)
    failures: list[BaseException] = []

    def run_watcher() -> None:
        try:
            watcher = Watcher(launched, connect(PROJECT))
            observation, decision = watcher.observe()
            together.wait(10)  # both have observed that there is no slice
            watcher.act(observation, decision)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run_watcher) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert creations(cloud) == 2
    assert len(provider.list(ZONES[0]) + provider.list(ZONES[1])) == 1
    assert len(status_files.read_status(Path(launch.run))[0].attempts) == 1
    watcher = Watcher(launched, provider)
    assert tick(watcher) == "QUEUED"


def test_a_watcher_that_is_killed_and_started_again_changes_nothing(
    cloud: ScriptedCloud, watcher: Watcher
) -> None:
    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command("watch", watcher.launch.run), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )

    def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(words in line for line in lines), process.poll()

    expected = [("QUEUED", lambda: None), ("BOOTING", lambda: granted(cloud, watcher)),
                ("RUNNING", lambda: hosts_say(watcher, 1, 7))]  # fmt: skip
    for status, event in expected:
        event()
        process = started()
        wait_for_line(process, status)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
    assert creations(cloud) == 1
    assert not [rpc for rpc, _ in cloud.calls if rpc.startswith("Delete")]
    (attempt,) = status_files.read_status(watcher.run)[0].attempts
    assert (attempt.number, attempt.ended) == (1, "")


def test_ages_are_by_the_clock_of_the_storage(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocks of hosts and watchers do not matter."""
    hosts_say(watcher, 1, 5)
    monkeypatch.setattr(time, "time", lambda: 5_000_000_000.0)
    status, now = status_files.read_status(watcher.run)
    assert now < 4_000_000_000
    assert all(0 <= beat.age < 60 for beat in status.heartbeats)
    text = (watcher.run / "status" / "worker-0.json").read_text("utf-8")
    assert "age" not in text
    assert "time" not in text
    old = time.monotonic()  # any moment long ago
    os.utime(watcher.run / "status" / "worker-1.json", (old, old))
    assert status_files.read_status(watcher.run)[0].heartbeats[1].age > 1e6


def test_nothing_is_written_for_others_to_read(watcher: Watcher) -> None:
    hosts_say(watcher, 1, 5)
    status_files.request_stop(watcher.run)
    tick(watcher)
    for path in watcher.run.rglob("*"):
        assert not path.stat().st_mode & 0o077, path


def test_a_damaged_status_file_is_ignored(
    watcher: Watcher, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts_say(watcher, 1, 5)
    (watcher.run / "status" / "worker-0.json").write_text("{", "utf-8")
    (watcher.run / "status" / "worker-9.json").write_text('{"worker": 9, "speed": 3}', "utf-8")
    status, _ = status_files.read_status(watcher.run)
    assert [heartbeat.worker for heartbeat in status.heartbeats] == [1]
    assert "worker-0.json ignored: it is not a status file" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["9" * 400, f"-{1 << 53}", "1e400", "NaN", "true", '"5"'])
def test_an_invalid_step_is_ignored(watcher: Watcher, step: str) -> None:
    hosts_say(watcher, 1, 5)
    path = watcher.run / "status" / "worker-0.json"
    text = path.read_text("utf-8").replace('"step": 5', f'"step": {step}')
    assert step in text
    path.write_text(text, "utf-8")
    status, _ = status_files.read_status(watcher.run)
    assert [heartbeat.worker for heartbeat in status.heartbeats] == [1]
