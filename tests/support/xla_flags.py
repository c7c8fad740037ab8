"""Flags with which XLA compiles fastest for CPUs; to be set before JAX asks for a device.

Most of the time of the tests and the drill goes into compiling programs that then run for a second.
"""

from __future__ import annotations

from importlib.metadata import version

DEVICES = 8  # emulated, in the process of the tests

# LLVM's optimisations are half of the time.
QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
# Of what is left a third is fusions written as MLIR; newer versions know no other way.
if version("jaxlib").startswith("0.10."):
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"
