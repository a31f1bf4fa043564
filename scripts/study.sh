#!/usr/bin/env bash
# The study's table for one bundle: quantize, evaluate, print. Finished cells are kept; delete <bundle>/eval to redo them.
#     bash scripts/study.sh bundles/nnunet_hippocampus DIR
set -euo pipefail
bundle="${1:?usage: bash scripts/study.sh BUNDLE DATASET_DIR}"
data="$(cd "${2:?usage: bash scripts/study.sh BUNDLE DATASET_DIR}" && pwd)"
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
simulated="w8a8_per_tensor w8a8_per_channel w8a8_adaptive w4a4_per_tensor w4a4_per_channel w4a4_adaptive w8a8_engine w4a4_engine"

run() { # run ID CONFIG words...: one workflow of the bundle
    "$python" -W "ignore:parsing config_file:UserWarning" -m monai.bundle run "$1" --config_file "$bundle/configs/$2.json" \
        --bundle_root "$bundle" --dataset_dir "$data" "${@:3}"
}
evaluate() { # evaluate SCHEME BACKEND: unless its record is newer than the weights and the checkpoint
    local record="$bundle/eval/$1-$2/summary.json" checkpoint="$bundle/models/quantized/$1.pt"
    if [ "$record" -nt "$bundle/models/model.pt" ] && { [ ! -e "$checkpoint" ] || [ "$record" -nt "$checkpoint" ]; }; then
        echo "kept $record"
    else
        run evaluate evaluate --scheme "$1" --backend "$2"
    fi
}

evaluate fp32 torch
for scheme in $simulated; do
    [ "$bundle/models/quantized/$scheme.pt" -nt "$bundle/models/model.pt" ] || run quantize quantize --scheme "$scheme"
    evaluate "$scheme" torch
done
evaluate w8a8_engine openvino
"$python" -m mqb_monai.records.table "$bundle/eval"
