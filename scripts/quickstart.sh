#!/usr/bin/env bash
# Make .venv, install, then the main job on the embedded phantom bundle: quantize, evaluate, run as real INT8, print the
# table. Under 10 minutes on 2 cores; a second run reuses what is there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_venv.sh
setup_venv
.venv/bin/python -m mqb_monai data phantom --out data/phantom --num 40 --seed 0
bash scripts/study.sh bundles/nnunet_phantom data/phantom
