"""Faults of everything about Cloud TPU slices."""

from __future__ import annotations

from tools.mutants.fault import Fault

FAULTS = [
    Fault(
        name="stale-heartbeat-counts",
        file="tpu/launch/decide.py",
        old="fresh = [heartbeat for heartbeat in heartbeats if heartbeat.age < FRESH]",
        new="fresh = list(heartbeats)",
        description="a slice without live hosts is kept, and costs money",
    ),
    Fault(
        name="preempted-slice-not-replaced",
        file="tpu/launch/decide.py",
        old='if resource.initiator == "USER":',
        new='if resource.initiator != "USER":',
        description="the watch ends when a slice is preempted",
    ),
    Fault(
        name="preemption-counts-as-failure",
        file="tpu/launch/decide.py",
        old='attempt.ended not in ("preempted", "capacity")',
        new='attempt.ended not in ("capacity",)',
        description="a run on spot slices is given up after some preemptions",
    ),
    Fault(
        name="preemption-counts-as-fruitless-start",
        file="tpu/host/supervise.py",
        old="(DeviceUnavailableError.exit_code, PreemptedError.exit_code)",
        new="(DeviceUnavailableError.exit_code,)",
        description="a host gives up a run that was only asked to stop several times",
    ),
    Fault(
        name="reserved-slice-requested-as-spot",
        file="tpu/launch/request.py",
        old='if tpu.capacity == "spot":',
        new='if tpu.capacity != "on-demand":',
        description="a reserved slice may be taken away at any time",
    ),
    Fault(
        name="secrets-shown",
        file="tpu/launch/request.py",
        old='return _SECRETS.sub("[redacted]", text)',
        new="return text",
        description="a dry run prints tokens and private keys",
    ),
    Fault(
        name="manifest-not-compared",
        file="tpu/host/startup.sh",
        old='if ! sha256sum --check --status <<<"$manifest  SHA256SUMS"; then',
        new="if [[ ! -s SHA256SUMS ]]; then",
        description="machines install any files from the run folder",
        hint=("test_tpu_host", "test_tpu_install", "test_tpu_submit"),
    ),
    Fault(
        name="slices-of-others-deleted",
        file="tpu/launch/gc.py",
        old="if r.labels.get(key) == value and r.state in DEAD",
        new="if key and value and r.state in DEAD",
        description="gc deletes slices that this tool did not create",
    ),
    Fault(
        name="preflight-memory-without-arguments",
        file="tpu/preflight/estimates.py",
        old="total = memory.argument_size_in_bytes + memory.temp_size_in_bytes",
        new="total = memory.temp_size_in_bytes",
        description="preflight reports too little memory",
        core=True,
    ),
    Fault(
        name="preflight-last-collective-counts",
        file="tpu/preflight/hlo_analysis.py",
        old='received[match["kind"]] += _SIZES',
        new='received[match["kind"]] = _SIZES',
        description="preflight reports too little communication between devices",
        core=True,
    ),
]
