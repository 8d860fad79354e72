#!/usr/bin/env bash
# Tests the timm integration in an environment of its own: torchvision, which timm needs, breaks others beside a CPU torch.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${TIMM_VENV:-.venv-timm}"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install -q -c constraints.txt -e . pytest pytest-timeout timm==1.0.31 torchvision==0.28.0
"$venv/bin/python" -m pytest -q tests/integrations "$@"
