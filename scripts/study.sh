#!/usr/bin/env bash
# The study's table: bundles under every scheme, simulated and, where integer kernels can compute it, on OpenVINO.
# Finished cells are kept; start it again to go on where it stopped.
#     bash scripts/study.sh nnunet_hippocampus DIR [RUNS]        # or 'nnunet_*,unetr_s_hippocampus'
set -euo pipefail
usage="usage: bash scripts/study.sh BUNDLES DATASET_DIR [RUNS]"
bundles="${1:?$usage}"
data="$(cd "${2:?$usage}" && pwd)"
cd "$(dirname "$0")/.."
runs="${3:-runs/study}"
python="${PYTHON:-.venv/bin/python}"
"$python" -m mqb_monai bench run --bundles "$bundles" --schemes 'fp32,w8a8_*,w4a4_*' --backends torch,openvino \
    --data "$data" --out "$runs"
"$python" -m mqb_monai bench table --out "$runs"
