"""XLA flags for fast compilation on CPUs; set them before JAX initializes a device.

Tests and drill spend most of their time compiling programs that run for a second.
"""

from __future__ import annotations

from importlib.metadata import version

DEVICES = 8  # emulated, in the process of the tests

# LLVM's optimizations take half of the time.
QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
# Fusions in MLIR take a third of the rest; newer versions have no alternative.
if version("jaxlib").startswith("0.10."):
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"
