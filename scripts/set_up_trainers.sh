#!/bin/sh
# Makes .venvs/trainers, a virtual environment of its own for what `make test-trainers` runs: trainers pin more than a package should.
set -eu
cd "$(dirname "$0")/.."
[ -x .venvs/trainers/bin/pip ] || "${PYTHON:-python3}" -m venv .venvs/trainers
pip() { .venvs/trainers/bin/pip --quiet --disable-pip-version-check "$@"; }
# A looser request brings gigabytes of CUDA.
pip install torch==2.13.0
pip install --editable ".[export]" --requirement tests/trainers/requirements.txt
# What does not install here is said by the checks that want it.
while read -r package; do
    case $package in \#*) ;; *) pip install --no-deps "$package" || echo "$package does not install here" >&2 ;; esac
done < tests/trainers/requirements_alone.txt
