#!/usr/bin/env bash
# Make or reuse an environment: setup_venv [EXTRAS] [FOLDER], .venv where no folder is named ("test" adds what the tests
# need). Sourced by quickstart.sh, test.sh and serve_label.sh.
# A stamp beside the environment says which requirements it was made from, so that a second run installs nothing.
setup_venv() {
    local extras="${1:-}" venv="${2:-.venv}" python="${PYTHON:-python3}" stamp
    stamp="$(cat requirements.txt pyproject.toml | cksum) ${extras}"
    if [ "$(cat "$venv/installed${extras:+-$extras}" 2>/dev/null)" = "$stamp" ]; then
        echo "using $venv as it is"
        return
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: Python 3.11 or newer is needed; '$python' is $("$python" --version). Set PYTHON=/path/to/python3.11." >&2
        return 1
    }
    echo "making $venv and installing (about a minute with a fast network)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}"
    echo "$stamp" > "$venv/installed${extras:+-$extras}"
}
