#!/usr/bin/env bash
# The TensorRT lane on a machine with an NVIDIA GPU, from nothing: install it in .venv, run its tests, build FP32, FP16
# and INT8 engines of every bundle up to 100 M parameters, hold each against the simulation, measure size and latency,
# score the bundles that have weights and data on whole volumes, and write it all to one report. What fails is named at
# the end, and the rest goes on.
#     bash scripts/verify_tensorrt.sh [FOLDER_OF_DATA_SETS] [RUNS]
# Without a folder it makes the phantom and takes what is in data/.
set -euo pipefail
if [ -n "${1:-}" ] && [ ! -d "$1" ]; then
    echo "error: '$1' is not a folder: give the folder of the data sets, or nothing." >&2
    exit 1
fi
data="${1:+$(cd "$1" && pwd)}"
cd "$(dirname "$0")/.."
runs="${2:-runs/tensorrt}"
if ! nvidia-smi > /dev/null 2>&1; then
    echo "error: this machine has no NVIDIA GPU (nvidia-smi does not run): TensorRT engines are built on the GPU that runs them. On a CPU take OpenVINO: bash scripts/quickstart.sh" >&2
    exit 1
fi
. scripts/setup_venv.sh
setup_venv test
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-tensorrt.txt
if ! .venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: torch in .venv does not see the GPU: it is the CPU build, or the driver is older than CUDA 13 needs (580). Update the driver or delete .venv, and start again." >&2
    exit 1
fi
failed=""
step() {
    echo "== $*"
    "$@" || failed="$failed
    $*"
}
if [ -z "$data" ]; then
    data="$PWD/data"
    step .venv/bin/python -m mqb_monai data phantom --out data/phantom --num 40 --seed 0
fi
step .venv/bin/python -m pytest tests/gpu tests/backends -k "gpu or tensorrt"
step .venv/bin/python -m scripts.measure.simulation_cost --device cuda
step .venv/bin/python -m mqb_monai bench engines --backend tensorrt --repeats 50 --out "$runs"
step .venv/bin/python -m mqb_monai bench run --bundles '*' --schemes fp32,fp16,w8a8_engine --backends torch,tensorrt \
    --data "$data" --out "$runs"
step .venv/bin/python -m mqb_monai bench table --out "$runs"
step .venv/bin/python -m mqb_monai report "$runs" --out "$runs/report"
if [ -n "$failed" ]; then
    echo "error: these failed; what each printed is above:$failed" >&2
    exit 1
fi
