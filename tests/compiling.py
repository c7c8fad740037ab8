"""How XLA compiles for processors in the least time; to be imported before JAX is.

Most of the time of the tests and the drill goes into compiling programs that then run for a second.
"""

from __future__ import annotations

from importlib.metadata import version

# Half of the time is what LLVM makes better.
QUICKLY = "--xla_backend_optimization_level=0"
# Of what is left a third is fusions written as MLIR; newer versions know no other way.
if version("jaxlib").startswith("0.10."):
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"
