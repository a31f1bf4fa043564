#!/usr/bin/env bash
# The study's table: bundles under every scheme, simulated and, where integer kernels can compute it, on OpenVINO.
# Finished cells are kept; start it again to go on where it stopped.
#     bash scripts/study.sh nnunet_hippocampus DIR [RUNS]        # or 'nnunet_*,unetr_s_hippocampus'
set -euo pipefail
stop() {
    echo "$1" >&2
    exit 1
}

[ -n "${1:-}" ] && [ -n "${2:-}" ] || stop "usage: bash scripts/study.sh BUNDLES DATASET_DIR [RUNS]"
[ -d "$2" ] || stop "error: there is no folder '$2': give the dataset's folder, with its dataset.json."
bundles="$1"
data="$(cd "$2" && pwd)"
cd "$(dirname "$0")/.."
runs="${3:-runs/study}"
python="${PYTHON:-.venv/bin/python}"
command -v "$python" > /dev/null || stop "error: there is no '$python': run bash scripts/quickstart.sh or scripts/test.sh \
first, which make .venv, or set PYTHON."
"$python" -m mqb_monai bench run --bundles "$bundles" --schemes 'fp32,w8a8_*,w4a4_*' --backends torch,openvino \
    --data "$data" --out "$runs"
"$python" -m mqb_monai bench table --out "$runs"
