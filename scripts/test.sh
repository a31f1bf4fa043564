#!/usr/bin/env bash
# Make or reuse .venv, install what the tests need, run them. Further words go to pytest: bash scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_venv.sh
setup_venv test
if [ $# -eq 0 ]; then set -- -m "not slow"; fi
.venv/bin/python -m pytest "$@"
