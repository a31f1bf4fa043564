#!/usr/bin/env bash
# The study's table: bundles under every scheme, simulated and, where integer kernels can compute it, on OpenVINO.
# Finished cells are kept; start it again to go on where it stopped.
#     bash scripts/study.sh nnunet_hippocampus DIR [RUNS]        # or 'nnunet_*,unetr_s_hippocampus', or a bundle's folder
set -euo pipefail
stop() {
    echo "$1" >&2
    exit 1
}

[ -n "${1:-}" ] && [ -n "${2:-}" ] || stop "usage: bash scripts/study.sh BUNDLES DATASET_DIR [RUNS]"
[ -d "$2" ] || stop "error: '$2' is not a folder: give the dataset's folder, with its dataset.json."
bundles="$1"
data="$(cd "$2" && pwd)"
cd "$(dirname "$0")/.."
runs="${3:-runs/study}"
python="${PYTHON:-.venv/bin/python}"
command -v "$python" > /dev/null || stop "error: there is no '$python': run bash scripts/quickstart.sh or scripts/test.sh \
first, which make .venv, or set PYTHON."

run() { # SCHEMES BACKENDS
    "$python" -m mqb_monai bench run --bundles "$bundles" --schemes "$1" --backends "$2" --data "$data" --out "$runs"
}

bits="$("$python" -c 'from mqb_monai.backends.openvino.exact_weights import exact_weight_bits as bits; print(bits())')"
case "$bits" in
    8) run 'fp32,w8a8_*,w4a4_*' torch,openvino ;;
    7)
        echo "this CPU has no VNNI, so that 8-bit weights saturate: OpenVINO runs w7a8_engine, with 7-bit weights"
        run 'fp32,w8a8_*,w7a8_*,w4a4_*' torch
        run 'fp32,w7a8_*' openvino
        ;;
    *)
        echo "this CPU computes INT8 wrongly: OpenVINO runs FP32 alone"
        run 'fp32,w8a8_*,w4a4_*' torch
        run fp32 openvino
        ;;
esac
"$python" -m mqb_monai bench table --out "$runs"
