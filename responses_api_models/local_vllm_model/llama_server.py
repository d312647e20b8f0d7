"""llama.cpp's server as a process of its own: `python llama_server.py --model FILE.gguf --port 8080`.

It is the one in the package xllamacpp, for where no `llama-server` is installed, and takes the options of
that which are listed by `--help`. A key is read from LLAMA_API_KEY.
"""

from __future__ import annotations

import argparse
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
"""llama.cpp's numbers for them; on a CPU it is the less exact of the two."""


def main() -> None:
    """Serve until SIGTERM."""
    threads = max((os.cpu_count() or 1) - 1, 1)
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", "-m", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--alias", "-a")
    parser.add_argument("--ctx-size", "-c", type=int, default=4096, help="of all slots together")
    parser.add_argument("--parallel", "-np", type=int, default=1, help="slots: requests answered at once")
    parser.add_argument("--threads", "-t", type=int, default=threads)
    parser.add_argument("--batch-size", "-b", type=int, default=512)
    parser.add_argument("--ubatch-size", "-ub", type=int)
    parser.add_argument("--n-gpu-layers", "-ngl", type=int)
    parser.add_argument("--cache-ram", type=int, default=0, help="MiB of prompts kept beside the slots")
    parser.add_argument("--cache-type-k", default="f16", help="of the cache's keys: f16, f32, bf16, q8_0")
    parser.add_argument("--cache-type-v", default="f16")
    parser.add_argument("--flash-attn", "-fa", choices=FLASH_ATTENTION, default="auto")
    parser.add_argument("--metrics", action="store_true", help="tell of the queue at /metrics")
    parser.add_argument("--chat-template", default="")
    parser.add_argument("--chat-template-file", type=Path)
    parser.add_argument("--verbosity", type=int, default=1)
    options = parser.parse_args()

    native: Any = import_module("xllamacpp")  # it has no types
    params = native.CommonParams()
    params.model.path, params.model_alias = options.model, {options.alias or Path(options.model).stem}
    params.hostnames, params.port = [options.host], options.port
    params.n_ctx, params.n_parallel = options.ctx_size, options.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_batch, params.n_ubatch = options.batch_size, options.ubatch_size or options.batch_size
    params.cache_ram_mib, params.verbosity = options.cache_ram, options.verbosity
    params.cache_type_k = _type(native, options.cache_type_k)
    params.cache_type_v = _type(native, options.cache_type_v)
    params.flash_attn_type = native.llama_flash_attn_type(FLASH_ATTENTION[options.flash_attn])
    # Enough to answer /health while every slot is busy.
    params.n_threads_http = options.parallel + 4
    params.prefill_assistant = params.ui = False
    params.endpoint_metrics = options.metrics
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    if key := os.environ.get("LLAMA_API_KEY"):
        params.api_keys = [key]
    if (
        template := options.chat_template_file.read_text()
        if options.chat_template_file
        else options.chat_template
    ):
        params.use_jinja, params.chat_template = True, template
    server = native.Server(params)
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201 it is the log
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # The native server would wait for requests in flight.
    os._exit(0)


def _type(native: Any, name: str) -> Any:
    """llama.cpp's word for a type of number; ends the process where it has none."""
    try:
        return native.ggml_type[f"GGML_TYPE_{name.upper()}"]
    except KeyError:
        raise SystemExit(
            f"there is no cache type {name}; there are f16, f32, bf16, q8_0 and others"
        ) from None


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
