"""The weights of the embedded model as a Hugging Face model in bfloat16, and the same numbers as float32 for
llama.cpp: `python convert.py WEIGHTS.gguf FOLDER`.

Run with the interpreter of `.venvs/transformers`, which has what reads GGUF. SmolLM2's template drops tools,
so it gets one that shows them as Hermes does, which vLLM's parser of that name reads.
"""

from __future__ import annotations

import sys
from pathlib import Path

TEMPLATE = Path(__file__).parent / "hermes.jinja"
BOUND = 8


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
    # An engine that takes this for an answer's bound, though nobody asked for one, is found out by it.
    model.generation_config.max_new_tokens = BOUND
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _unquantized(weights, folder / "float32.gguf")


def _unquantized(weights: Path, path: Path) -> None:
    """Write a GGUF file with every weight as float32, rounded to bfloat16 as those of the model are."""
    import gguf
    import torch

    reader = gguf.GGUFReader(weights)
    written_by_itself = ("general.architecture", "general.file_type", "general.quantization_version")
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in written_by_itself:
            kind, *parts = field.types
            writer.add_key_value(field.name, field.contents(), kind, parts[-1] if parts else None)
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        writer.add_tensor(tensor.name, values.bfloat16().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
