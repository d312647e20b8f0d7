"""Teacher forcing: agreement with the slow obvious version, with and without gradients."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_like.sequence_processing import (
    BatchedSequences,
    GenerationConfig,
    LogprobResults,
    SequenceProcessor,
    logprobs,
)
from tests.sequence_processing import tiny

ids = st.integers(0, 339)


def processor(model: Any = None, *, pad: str | None = tiny.PAD, **config: Any) -> SequenceProcessor:
    model = tiny.model() if model is None else model
    return SequenceProcessor(model, tiny.tokenizer(pad=pad), GenerationConfig(**config))


def some_sequences(processor: SequenceProcessor, seed: int = 0, B: int = 5, G: int = 3) -> BatchedSequences:
    """Sequences of very different lengths, with the end token anywhere and one response empty."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(340) for _ in range(rng.randint(1, 48))] for _ in range(B)]
    responses = [
        [[rng.randrange(340) for _ in range(rng.randint(1, 64))] for _ in range(G)] for _ in range(B)
    ]
    responses[0][0] = []
    responses[1][0][-1] = 0
    return processor.pack(prompts, responses)


def assert_naive(
    results: LogprobResults, sequences: BatchedSequences, model: Any, atol: float = 1e-4
) -> None:
    double = copy.deepcopy(model).double()
    for b, g, prompt, response in tiny.rows(sequences):
        with torch.no_grad():
            expected, entropies = tiny.naive(double, prompt, response)
        assert results.logprobs[b][g].shape == (len(response),)
        torch.testing.assert_close(results.logprobs[b][g].double(), expected, atol=atol, rtol=0)
        np.testing.assert_allclose(results.entropies[b][g], entropies.numpy(), atol=atol, rtol=0)
        assert results.sequence_logprobs[b][g] == pytest.approx(float(expected.sum()), abs=atol * 64)
        assert results.sequence_logprobs[b][g] == float(results.logprobs[b][g].detach().double().sum())


def flat(results: LogprobResults) -> torch.Tensor:
    return torch.cat([part for group in results.logprobs for part in group])


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class TestAgreement:
    @pytest.mark.parametrize("pad", [tiny.PAD, tiny.END, None])
    @pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
    def test_they_are_those_of_an_unpadded_loop_in_float64(self, architecture: str, pad: str | None):
        some = processor(tiny.model(architecture), pad=pad, tf_batch_size=4)
        sequences = some_sequences(some)
        for with_grad in (False, True):
            assert_naive(some.teacher_force_logprobs(sequences, with_grad), sequences, some.model)

    @pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
    def test_what_was_generated_scores_as_it_was_drawn(self, architecture: str):
        some = processor(tiny.model(architecture), max_new_tokens=20, temperature=0.7, gen_batch_size=5)
        sequences, results = some.generate_with_logprobs(tiny.PROMPTS, G=3, seed=0)
        assert_naive(results, sequences, some.model)

    @pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
    def test_in_bf16_the_mean_error_is_that_of_its_rounding(self, architecture: str):
        some = processor(tiny.model(architecture, torch.bfloat16))
        sequences = some_sequences(some, B=8)
        results = some.teacher_force_logprobs(sequences)
        alone = [tiny.naive(some.model, p, r)[0] for _, _, p, r in tiny.rows(sequences)]
        errors = (flat(results) - torch.cat(alone)).abs()
        assert flat(results).dtype == torch.float32
        assert all(e.dtype == np.float32 for group in results.entropies for e in group)
        assert errors.mean() < 0.05

    def test_the_softmax_of_bf16_logits_is_taken_in_float32(self):
        some = processor(tiny.model("llama", torch.bfloat16))
        sequences = some.pack([[5, 6, 7]], [[[8, 9, 10, 11]]])
        [[ours]] = some.teacher_force_logprobs(sequences).logprobs
        logits = some.model(torch.tensor([[5, 6, 7, 8, 9, 10]])).logits[0, 2:]
        targets = torch.tensor([8, 9, 10, 11])[:, None]
        wide = logits.float().log_softmax(-1).gather(-1, targets)[:, 0]
        narrow = logits.log_softmax(-1).gather(-1, targets)[:, 0].float()
        assert (ours - wide).abs().max() < (ours - narrow).abs().max() / 10

    @settings(deadline=None, max_examples=25)
    @given(
        st.lists(st.lists(ids, min_size=1, max_size=30), min_size=1, max_size=4),
        st.integers(0, 3),
        st.integers(1, 7),
        st.integers(1, 120),
        st.data(),
    )
    def test_they_depend_neither_on_batches_nor_on_padding(
        self, prompts: list[list[int]], G: int, rows: int, tokens: int, data: st.DataObject
    ):
        groups = [data.draw(st.lists(st.lists(ids, max_size=30), min_size=G, max_size=G)) for _ in prompts]
        whole, small = processor(), processor(pad=None, max_batch_tokens=tokens)
        results = small.teacher_force_logprobs(small.pack(prompts, groups), tf_batch_size=rows)
        expected = whole.teacher_force_logprobs(whole.pack(prompts, groups))
        for ours, theirs in zip(results.logprobs, expected.logprobs, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
        assert_naive(results, small.pack(prompts, groups), whole.model)

    def test_logits_are_never_made_of_more_than_a_chunk(self):
        model = tiny.model(vocabulary=20_000)
        made: list[int] = []
        model.lm_head.register_forward_hook(lambda _, args, out: made.append(out.numel()))
        some = processor(model)
        sequences = some_sequences(some, B=12, G=4)
        some.teacher_force_logprobs(sequences)
        assert max(made) <= logprobs.CHUNK
        assert sum(made) < 20_000 * (sum(map(sum, sequences.gen_lens)) + 64)

    def test_a_token_ruled_out_adds_nothing_to_the_entropy(self):
        logits, targets = torch.randn(5, 30), torch.arange(5)
        ruled_out = torch.cat([logits, torch.full((5, 3), -torch.inf)], dim=-1)
        ours = logprobs._logprobs(ruled_out, targets, 0.7)  # pyright: ignore[reportPrivateUsage]
        theirs = logprobs._logprobs(logits, targets, 0.7)  # pyright: ignore[reportPrivateUsage]
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


class TestTemperature:
    def test_they_are_the_policys_own_unless_the_sampling_temperature_is_asked(self):
        for asked, temperature in ((1.0, 1.0), ("sampling", 0.7), (2.5, 2.5)):
            some = processor(temperature=0.7, logprob_temperature=asked)
            sequences = some_sequences(some)
            results = some.teacher_force_logprobs(sequences)
            for b, g, prompt, response in tiny.rows(sequences):
                expected, entropies = tiny.naive(some.model, prompt, response, temperature)
                torch.testing.assert_close(results.logprobs[b][g].double(), expected, atol=1e-4, rtol=0)
                np.testing.assert_allclose(results.entropies[b][g], entropies, atol=1e-4)

    @pytest.mark.parametrize("top_p", [1.0, 0.6])
    def test_the_sampling_distribution_is_renormalised_over_its_nucleus(self, top_p: float):
        some = processor(temperature=0.8, top_p=top_p, max_new_tokens=12, sampling_logprobs=True)
        sequences, results = some.generate_with_logprobs(tiny.PROMPTS, G=4, seed=1)
        assert results.sampling_logprobs is not None
        for b, g, prompt, response in tiny.rows(sequences):
            logits = some.model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            p, order = (logits.double() / 0.8).softmax(-1).sort(descending=True)
            p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)
            p = torch.zeros_like(p).scatter(-1, order, p / p.sum(-1, keepdim=True))
            expected = p.gather(-1, torch.tensor(response)[:, None])[:, 0].log()
            ours = results.sampling_logprobs[b][g]
            assert not ours.requires_grad
            assert ours.isfinite().all(), "what was drawn can be drawn"
            torch.testing.assert_close(ours.double(), expected, atol=1e-3, rtol=0)

    def test_a_token_outside_of_the_nucleus_could_not_have_been_drawn(self):
        some = processor(top_p=0.05, sampling_logprobs=True)
        logits = some.model(torch.tensor([[5, 6]])).logits[0, -1]
        sequences = some.pack([[5, 6]], [[[int(logits.argmin())], [int(logits.argmax())]]])
        results = some.teacher_force_logprobs(sequences)
        assert results.sampling_logprobs is not None
        assert results.logprobs[0][0].isfinite().all()
        assert [part.item() for part in results.sampling_logprobs[0]] == [-float("inf"), 0.0]

    def test_an_end_token_behind_an_answer_was_not_drawn(self):
        some = processor(sampling_logprobs=True)
        tokenizer: Any = some.tokenizer
        answer = [*tokenizer("<answer>5</answer>.")["input_ids"], 0]
        results = some.teacher_force_logprobs(some.pack([[5, 6]], [[answer, [7, 0]]]))
        assert results.sampling_logprobs is not None
        assert results.sampling_logprobs[0][0][-1] == 0
        assert results.sampling_logprobs[0][1][-1] == results.logprobs[0][1][-1] < 0


class TestGradients:
    @pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
    def test_they_are_those_of_an_unpadded_loop(self, architecture: str):
        some, other = processor(tiny.model(architecture), tf_batch_size=4), tiny.model(architecture)
        sequences = some_sequences(some)
        results = some.teacher_force_logprobs(sequences, with_grad=True)
        assert all(not isinstance(e, torch.Tensor) for group in results.entropies for e in group)
        rows = tiny.rows(sequences)
        weights = [
            torch.randn(len(r), generator=torch.Generator().manual_seed(i)) for i, (*_, r) in enumerate(rows)
        ]
        ours = sum((results.logprobs[b][g] * w).sum() for (b, g, *_), w in zip(rows, weights, strict=True))
        ours.backward()  # type: ignore[union-attr]
        for (_, _, prompt, response), w in zip(rows, weights, strict=True):
            (tiny.naive(other, prompt, response)[0] * w).sum().backward()
        expected = gradients(other)
        assert expected.keys() == gradients(some.model).keys()
        for name, gradient in gradients(some.model).items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-3, rtol=1e-3)

    def test_a_chunk_more_or_less_changes_nothing(self):
        some = processor(tiny.model(vocabulary=340))
        sequences = some_sequences(some, B=3)
        flat(some.teacher_force_logprobs(sequences, with_grad=True)).sum().backward()
        wide = processor(tiny.model(vocabulary=340))
        prompts, responses = [], []
        for _, _, prompt, response in tiny.rows(sequences):
            prompts.append(prompt)
            responses.append([response])
        flat(wide.teacher_force_logprobs(wide.pack(prompts, responses), True, 1)).sum().backward()
        for name, gradient in gradients(some.model).items():
            torch.testing.assert_close(gradient, gradients(wide.model)[name], atol=1e-3, rtol=1e-3)

    def test_no_logits_are_kept_for_the_backward_pass(self):
        kept: list[torch.Size] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() != some.model.lm_head.weight.data_ptr():
                kept.append(tensor.shape)
            return tensor

        some: Any = processor(tiny.model(vocabulary=5000))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            some.teacher_force_logprobs(some_sequences(some), with_grad=True)
        assert kept
        assert not [shape for shape in kept if shape and shape[-1] == 5000]

    def test_without_them_nothing_is_kept(self):
        some = processor()
        assert not flat(some.teacher_force_logprobs(some_sequences(some))).requires_grad

    def test_dropout_is_the_callers_choice_with_them_and_off_without(self):
        model = tiny.model("gpt2")
        model.transformer.drop.p = 0.5
        some = processor(model.train())
        sequences = some_sequences(some)
        expected = flat(processor(tiny.model("gpt2")).teacher_force_logprobs(sequences))
        torch.testing.assert_close(flat(some.teacher_force_logprobs(sequences)), expected)
        assert not torch.allclose(
            flat(some.teacher_force_logprobs(sequences, True)).detach(), expected, atol=0.1
        )

    def test_gradient_checkpointing_changes_nothing(self):
        some, other = processor(), processor(tiny.model().train())
        other.model.activation_checkpointing_enable()  # type: ignore[operator]
        sequences = some_sequences(some)
        for each in (some, other):
            flat(each.teacher_force_logprobs(sequences, with_grad=True)).sum().backward()
        for name, gradient in gradients(some.model).items():
            torch.testing.assert_close(gradient, gradients(other.model)[name], atol=1e-4, rtol=1e-4)


class TestRefusals:
    def test_padding_on_the_left_is_refused_by_row(self):
        some = processor()
        sequences = some.pack([[5, 6], [7]], [[[8]], [[9]]])
        sequences.attention_masks[1] = sequences.attention_masks[1].flip(-1)
        with pytest.raises(
            ValueError, match=r"prompt 1, response 0: the attention mask is not 1 for the first 2"
        ):
            some.teacher_force_logprobs(sequences)

    def test_lengths_that_do_not_fit_are_refused_by_row(self):
        some = processor()
        for prompt_lens, gen_lens in (([2], [[2]]), ([0], [[1]])):
            sequences = some.pack([[5, 6]], [[[8]]])
            sequences.prompt_lens, sequences.gen_lens = prompt_lens, gen_lens
            with pytest.raises(ValueError, match="prompt 0, response 0: lengths"):
                some.teacher_force_logprobs(sequences)
        sequences.prompt_lens = [2, 2]
        with pytest.raises(ValueError, match=r"of shape \(1, 1, 3\) do not go with"):
            some.teacher_force_logprobs(sequences)

    def test_responses_that_make_no_table_are_refused(self):
        with pytest.raises(ValueError, match="as many groups of responses"):
            processor().pack([[5], [6]], [[[7]], [[8], [9]]])

    def test_a_sequence_longer_than_the_model_is_refused(self):
        some = processor()
        sequences = some.pack([[5], [6] * 150], [[[7]], [[8] * 50]])
        with pytest.raises(
            ValueError, match=r"prompt 1 is too long: 150 tokens and 50 new ones .* the 192 of"
        ):
            some.teacher_force_logprobs(sequences)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_logits_that_are_no_numbers_name_their_row(self, value: float):
        model = tiny.model()
        with torch.no_grad():
            model.model.embed_tokens.weight[77] = value
        some = processor(model)
        sequences = some.pack([[5, 6], [7]], [[[8, 9], [8, 8]], [[9, 9], [9, 77, 5]]])
        for with_grad in (False, True):
            with pytest.raises(
                ValueError, match=r"prompt 1, response 1 \(4 tokens\): .* its token \d are not finite"
            ):
                some.teacher_force_logprobs(sequences, with_grad)

    def test_nothing_is_scored_as_nothing(self):
        some = processor()
        results = some.teacher_force_logprobs(some.pack([], []))
        assert (results.logprobs, results.entropies, results.sequence_logprobs) == ([], [], [])
