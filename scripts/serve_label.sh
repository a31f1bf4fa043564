#!/usr/bin/env bash
# Serve bundles to 3D Slicer with MONAI Label: make .venv-label, pack the bundles, start the server; Ctrl-C stops it.
#     bash scripts/serve_label.sh --bundles nnunet_hippocampus,nnunet_hippocampus_int8 --studies DIR
# A bundle is a name of the collection, that name with _int8 for its INT8 variant (quantize it to w8a8_engine first), or
# a zip that `pack` wrote. DIR holds the images; MONAI Label writes its list of them and the saved labels there. The app,
# the unpacked bundles, uploaded images and logs lie in --app. Nobody is asked for a password and nothing is encrypted:
# whoever reaches --host may read and change all of it.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
bundles="" studies="" host=127.0.0.1 port=8000 app="$root/runs/label"
usage="usage: bash scripts/serve_label.sh --bundles NAME,... --studies DIR [--host $host] [--port $port] [--app DIR]"
python="$root/.venv-label/bin/python"

stop() {
    echo "$1" >&2
    exit 1
}

check_port() {
    "${PYTHON:-python3}" - "$host" "$port" <<'END'
import socket, sys
host, port = sys.argv[1:]
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just given back is free
try:
    server.bind((host, int(port)))
except (OSError, OverflowError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    sys.exit(f"error: the server cannot listen on {host}:{port}: {reason}. Stop what listens there, or give another --port.")
END
}

install_label() { # into .venv-label, once
    local stamp pip=("$python" -m pip install --quiet --disable-pip-version-check)
    stamp="$(cksum < scripts/requirements-label.txt)"
    [ "$(cat .venv-label/installed-label 2>/dev/null)" != "$stamp" ] || return 0
    echo "installing MONAI Label"
    "${pip[@]}" -r requirements.txt -r scripts/requirements-label.txt
    "${pip[@]}" --no-deps monailabel==0.8.5 pydicom-seg==0.4.1
    "$python" -c 'import torchvision' 2>/dev/null || stop "error: torch and torchvision in .venv-label are not of one kind \
(CPU or CUDA). Delete .venv-label, run 'python3 -m venv .venv-label', install both there with one command from \
pytorch.org/get-started, and start again."
    echo "$stamp" > .venv-label/installed-label
}

while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) echo "$usage" && exit 0 ;;
        --bundles | --studies | --host | --port | --app)
            [ -n "${2:-}" ] || stop "error: $1 needs a value; $usage"
            declare "${1#--}=$2"
            ;;
        *) stop "error: unknown word '$1'; $usage" ;;
    esac
    shift 2
done
[ -n "$bundles" ] && [ -n "$studies" ] || stop "$usage"
[ -d "$studies" ] || stop "error: --studies must be the folder of the images; '$studies' is not a folder."
check_port
(cd "$root" && . scripts/setup_venv.sh && setup_venv openvino .venv-label && install_label)

mkdir -p "$app"
[ -f "$app/monaibundle/main.py" ] || "$python" -m monailabel.main apps --download --name monaibundle --output "$app"
models="$("$python" "$root/scripts/label_models.py" "$bundles" "$app/monaibundle/model")"
case "$host" in
    127.* | localhost) ;;
    *) echo "warning: $host: anyone who reaches this port may read and change the images; see the README" >&2 ;;
esac
export MONAI_LABEL_SESSION_PATH="$app/sessions" PYTHONPATH="$root/scripts"
exec "$python" -m monailabel.main start_server --app "$app/monaibundle" --uvicorn_app label_server:app \
    --studies "$studies" --host "$host" --port "$port" --conf models "$models" --conf zoo_source local --conf skip_trainers true
