"""The weights of the embedded model as a Hugging Face model: `python convert.py WEIGHTS.gguf FOLDER`.

Run with the interpreter of `.venvs/transformers`, which has what reads GGUF. SmolLM2's template drops tools,
so it gets one that shows them as Hermes does, which vLLM's parser of that name reads.
"""

from __future__ import annotations

import sys
from pathlib import Path

TEMPLATE = Path(__file__).parent / "hermes.jinja"


def main(weights: Path, folder: Path) -> None:
    """Read the GGUF file, and write safetensors and the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source"
    source.mkdir(exist_ok=True)
    link = source / "model.gguf"
    if not link.exists():
        link.symlink_to(weights)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=link.name)
    tokenizer.chat_template = TEMPLATE.read_text()
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=link.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
