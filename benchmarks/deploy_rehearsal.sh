#!/usr/bin/env bash
# Rehearse a deployment: one server and three clusters as processes in network namespaces (as root;
# else over proxies on loopback), links shaped and cut by the contact plan, real training.
# The final models must be the simulator's, bit for bit.   benchmarks/deploy_rehearsal.sh [--short]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
if [ ! -x "$python" ]; then
  make install >&2
fi
"$python" -c 'import flwr, mlxtend' 2>/dev/null ||
  "$python" -m pip install -qq --disable-pip-version-check --constraint constraints.txt \
    --editable '.[data,deploy]' >&2
PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH} exec "$python" benchmarks/deploy_rehearsal.py "$@"
