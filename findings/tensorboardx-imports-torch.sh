#!/usr/bin/env bash
# tensorboardX 2.6.5: to write one scalar it imports all of PyTorch, where PyTorch is installed.
#
# Expected: a writer of event files that is independent of PyTorch imports protobuf and numpy; in
# an environment of JAX that also has PyTorch (for transformers), nothing of PyTorch is loaded.
# Happens: the import of tensorboardX, of whatever part, imports torch, and boto3 if that is there.
# Hurt: every start of a training program that logs to TensorBoard takes longer, by more than the
# import of JAX, and by the memory of PyTorch; without PyTorch in the environment nobody notices.
#
# Fails if the behavior changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tensorboardX==2.6.5 torch==2.13.0 boto3
"$work/venv/bin/python" - <<'PYTHON'
import sys
import time
from importlib.metadata import version

started = time.perf_counter()
from tensorboardX.record_writer import RecordWriter

seconds = time.perf_counter() - started
loaded = sorted({"torch", "boto3"} & set(sys.modules))
print(f"tensorboardX {version('tensorboardX')}: {RecordWriter.__name__} in {seconds:.1f} s")
print("loaded:", ", ".join(loaded), f"({sum(m.startswith('torch.') for m in sys.modules)} modules)")
assert loaded == ["boto3", "torch"], loaded
print("behavior as described")
PYTHON
