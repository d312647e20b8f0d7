#!/bin/sh
# Makes .venvs/verifiers and .venvs/verifiers03: verifiers as it is, and as it was before 0.4, each with our package in it.
set -eu
cd "$(dirname "$0")/.."
make_one() {
    [ -x ".venvs/$1/bin/pip" ] || "${PYTHON:-python3}" -m venv ".venvs/$1"
    ".venvs/$1/bin/pip" install --quiet --disable-pip-version-check --editable . --editable environments/word_count uv "verifiers$2"
}
make_one verifiers "==0.4.0"
make_one verifiers03 "==0.3.1"
