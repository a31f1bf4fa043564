#!/usr/bin/env bash
# Make .venv, install, then the main job on the embedded phantom bundle: quantize, evaluate, run as real INT8, print the
# table, write the report. Under 10 minutes on 2 cores; a second run reuses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_venv.sh
setup_venv report
.venv/bin/python -m mqb_monai data phantom --out data/phantom --num 40 --seed 0
echo "nnunet_phantom on 8 synthetic scans under every scheme, simulated and as INT8 (a few minutes)"
bash scripts/study.sh nnunet_phantom data/phantom runs/quickstart
.venv/bin/python -m mqb_monai report runs/quickstart --out runs/quickstart/report
echo "open runs/quickstart/report/index.html in a browser"
