"""All faults, in the order of the report."""

from __future__ import annotations

from tools.mutants import faults_core, faults_data, faults_run, faults_tasks, faults_tpu
from tools.mutants.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *faults_core.FAULTS,
    *faults_run.FAULTS,
    *faults_data.FAULTS,
    *faults_tasks.FAULTS,
    *faults_tpu.FAULTS,
)
