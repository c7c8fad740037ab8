#!/usr/bin/env bash
# flax 0.12.8 with jax 0.10.2: a draw from nnx.Rngs in a traced function writes an error message.
#
# Expected: under jax.eval_shape or jax.jit, rngs.params() traces a few operations, always as many.
# Happens: the count of the stream is a tracer, and flax compares getattr(value, "sharding", None)
# of the old and the new one. For a tracer, JAX answers with an AttributeError whose text lists the
# operations that made the value, so it searches the whole program so far: twice per draw, and the
# longer the program, the longer. The text is thrown away.
# Hurt: everybody who defines a network with nnx.eval_shape or initializes it in jit, which is the
# way to a sharded one: of the time to define a BERT, half is spent on texts that nobody reads.
#
# Counts the texts, and how many equations are searched for them. Fails if the behavior changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
cat > "$work/observe.py" <<'PYTHON'
import time

import flax
import jax
from flax import nnx
from jax._src.interpreters import partial_eval

texts = 0
equations = 0
origin = partial_eval.DynamicJaxprTracer._origin_msg


def counted(tracer):
    global texts, equations
    texts += 1
    equations += len(tracer._trace.frame.tracing_eqns)
    return origin(tracer)


partial_eval.DynamicJaxprTracer._origin_msg = counted


def draws(count):
    def make():
        rngs = nnx.Rngs(0)
        for _ in range(count):
            rngs.params()
        return 0

    return make


print("flax", flax.__version__, "jax", jax.__version__)
seen = {}
for count in (50, 100, 200):
    jax.eval_shape(draws(count))
    texts = equations = 0
    started = time.perf_counter()
    jax.eval_shape(draws(count))
    seconds = time.perf_counter() - started
    seen[count] = texts, equations
    print(f"{count} draws: {texts} texts, {equations:,} equations searched, {seconds:.2f} s")
assert all(of[0] == 2 * count for count, of in seen.items()), seen
assert seen[200][1] > 12 * seen[50][1], "no longer quadratic"
print("behavior as described")
PYTHON
"$work/venv/bin/python" "$work/observe.py"
