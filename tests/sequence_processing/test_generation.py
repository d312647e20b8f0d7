"""Generation: agreement with the slow obvious version and with transformers, whatever the batches."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_like.sequence_processing import (
    BatchedSequences,
    GenerationConfig,
    SequenceProcessor,
    StopAfterAnswer,
)
from nemo_like.sequence_processing.sampling import draw, nucleus
from tests.sequence_processing import tiny

texts = st.text(st.characters(codec="ascii", min_codepoint=32), min_size=1, max_size=60)


def processor(model: Any = None, *, pad: str | None = tiny.PAD, **config: Any) -> SequenceProcessor:
    config = {"max_new_tokens": 16} | config
    model = tiny.model() if model is None else model
    return SequenceProcessor(model, tiny.tokenizer(pad=pad), GenerationConfig(**config))


def responses(sequences: BatchedSequences) -> list[list[list[int]]]:
    found: list[list[list[int]]] = [[] for _ in sequences.prompt_lens]
    for b, _, _, response in tiny.rows(sequences):
        found[b].append(response)
    return found


def likely(model: Any, token: int, bias: float = 1e4) -> Any:
    """The model with `token` as likely as can be."""
    head = torch.nn.Linear(32, model.config.vocab_size, bias=True)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        head.bias[token] = bias
    model.lm_head = head
    return model


class Script(torch.nn.Module):
    """A model that says `answer` where `prompt` is continued, and "x" at every other position."""

    def __init__(self, prompt: str, answer: str) -> None:
        super().__init__()
        tokenizer = tiny.tokenizer()
        self.inner = tiny.model()
        [x] = tokenizer("x")["input_ids"]
        self.answer: list[int] = tokenizer(answer)["input_ids"]
        self.says = torch.full((tiny.CONTEXT,), x)
        start = len(tokenizer(prompt)["input_ids"]) - 1
        self.says[start : start + len(self.answer)] = torch.tensor(self.answer)

    def get_input_embeddings(self) -> Any:
        return self.inner.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, **options: Any) -> Any:
        out = self.inner(input_ids=input_ids, position_ids=position_ids, **options)
        out.logits = torch.nn.functional.one_hot(self.says[position_ids], 340).float() * 1e4
        return out


class TestWhatComesBack:
    @pytest.mark.parametrize("pad", [tiny.PAD, tiny.END, None])
    def test_a_sequence_is_prompt_response_padding(self, pad: str | None):
        with_pad = processor(pad=pad, max_new_tokens=40)
        tokenizer: Any = with_pad.tokenizer
        sequences = with_pad.generate_batched(tiny.PROMPTS, G=5, seed=3)
        assert tokenizer.pad_token == (pad or tiny.END)
        assert sequences.sequences.shape == sequences.attention_masks.shape
        assert sequences.sequences.shape[:2] == (len(tiny.PROMPTS), 5)
        ended = 0
        for b, g, prompt, response in tiny.rows(sequences):
            assert prompt == tokenizer(tiny.PROMPTS[b])["input_ids"]
            assert tokenizer.eos_token_id not in response[:-1]
            assert len(response) == 40 or response[-1] == tokenizer.eos_token_id
            assert sequences.responses_text[b][g] == tokenizer.decode(response, skip_special_tokens=True)
            length = len(prompt) + len(response)
            assert sequences.attention_masks[b, g].tolist() == [
                int(i < length) for i in range(sequences.sequences.shape[-1])
            ]
            assert set(sequences.sequences[b, g, length:].tolist()) <= {tokenizer.pad_token_id}
            ended += response[-1] == tokenizer.eos_token_id
        assert ended, "some response should end, or nothing is seen of what follows"

    def test_nothing_asked_is_nothing_given(self):
        some = processor()
        for prompts, G, shape in (([], 3, (0, 0, 0)), (["7"], 0, (1, 0, 1))):
            sequences, results = some.generate_with_logprobs(prompts, G)
            assert tuple(sequences.sequences.shape) == shape
            assert (sequences.responses_text, results.logprobs) == ([[]] * shape[0], [[]] * shape[0])
        sequences, results = processor(max_new_tokens=0).generate_with_logprobs(["7", "What"], G=2)
        assert sequences.gen_lens == [[0, 0], [0, 0]]
        assert results.sequence_logprobs == [[0.0, 0.0], [0.0, 0.0]]
        assert all(len(part) == 0 for group in results.logprobs for part in group)
        assert all(
            isinstance(e, np.ndarray) and e.shape == (0,) for group in results.entropies for e in group
        )

    def test_a_prompt_may_be_as_long_as_the_model_holds_and_no_longer(self):
        some = processor(max_new_tokens=10)
        room = tiny.CONTEXT - 10
        assert some.generate_batched(["7" * room], G=1).prompt_lens == [room]
        with pytest.raises(
            ValueError, match=r"prompt 1 is too long: 183 tokens and 10 new ones .* the 192 of"
        ):
            some.generate_batched(["7", "7" * (room + 1)], G=1)
        with pytest.raises(ValueError, match="prompt 1 has no tokens"):
            some.generate_batched(["7", ""], G=1)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"temperature": 0.0}, r"temperature should be above 0 \(got 0.0\); .* do_sample=False"),
            ({"top_p": 0.0}, "top_p should be above 0"),
            ({"max_new_tokens": -1}, "max_new_tokens should be at least 0"),
            ({"gen_batch_size": 0}, "gen_batch_size should be at least 1"),
            ({"tf_batch_size": 0}, "tf_batch_size should be at least 1"),
            ({"stop_strings": "</answer>"}, "stop_strings should be texts"),
            ({"logprob_temperature": -1.0}, "logprob_temperature should be above 0"),
            ({"do_sample": False, "sampling_logprobs": True}, "nothing is sampled"),
        ],
    )
    def test_a_configuration_without_sense_is_refused(self, config: dict[str, Any], message: str):
        with pytest.raises(ValueError, match=message):
            GenerationConfig(**config)

    def test_arguments_without_sense_are_refused(self):
        some = processor()
        with pytest.raises(
            ValueError, match=r"Must provide either prompts OR \(dataset_name \+ num_prompts\)"
        ):
            some.generate_with_logprobs(dataset_name="gsm8k_r1_template")
        with pytest.raises(ValueError, match="not both"):
            some.generate_with_logprobs(["7"], dataset_name="gsm8k_r1_template", num_prompts=1)
        with pytest.raises(ValueError, match="G should be at least 0"):
            some.generate_batched(["7"], G=-1)
        with pytest.raises(ValueError, match="a list of texts, not one text"):
            some.generate_batched("7")
        with pytest.raises(ValueError, match="gen_batch_size should be at least 1"):
            some.generate_batched(["7"], gen_batch_size=0)


class TestWhatIsDrawn:
    @pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
    def test_the_likeliest_tokens_are_those_of_transformers(self, architecture: str):
        model, tokenizer = tiny.model(architecture), tiny.tokenizer()
        some = processor(model, do_sample=False, max_new_tokens=24)
        ours = responses(some.generate_batched(tiny.PROMPTS, G=1))
        for text, [response] in zip(tiny.PROMPTS, ours, strict=True):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            theirs = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, pad_token_id=1
            )
            assert response == theirs[0, ids.shape[1] :].tolist()

    @pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8), (1.0, 0.05)])
    def test_tokens_come_as_often_as_they_should(self, temperature: float, top_p: float):
        some = processor(temperature=temperature, top_p=top_p, max_new_tokens=1, gen_batch_size=5000)
        ids = some.tokenizer(["What is"])["input_ids"]
        logits = tiny.model()(torch.tensor(ids)).logits[0, -1].detach().double()
        p = (logits / temperature).softmax(-1)
        ordered, order = p.sort(descending=True)
        kept = order[(ordered.cumsum(0) - ordered) < top_p]
        p = torch.zeros_like(p).index_copy(0, kept, p[kept]) / p[kept].sum()
        counts = Counter(r[0] for r in responses(some.generate_batched(["What is"], G=5000, seed=0))[0])
        assert set(counts) <= set(kept.tolist())
        for token, expected in enumerate((5000 * p).tolist()):
            assert abs(counts[token] - expected) <= 5 * max(1.0, expected) ** 0.5

    @settings(deadline=None)
    @given(st.integers(0, 2**32), st.floats(0.05, 1), st.floats(0.2, 3))
    def test_a_nucleus_is_that_of_transformers(self, seed: int, top_p: float, temperature: float):
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 3
        cooled = TemperatureLogitsWarper(temperature)(None, logits)
        theirs = TopPLogitsWarper(top_p)(None, cooled).softmax(-1)
        kept, order = nucleus(logits, temperature, top_p)
        ours = kept if order is None else torch.zeros_like(kept).scatter(-1, order, kept)
        ours = ours / ours.sum(-1, keepdim=True)
        # A token at the edge may fall on either side of it by rounding.
        edge = (ours - theirs).abs().amax(-1)
        smallest = theirs.masked_fill(theirs == 0, 1).amin(-1)
        assert (
            (edge < 1e-5) | ((ours > 0).sum(-1) - (theirs > 0).sum(-1)).abs().eq(1) & (smallest < 1)
        ).all()

    def test_a_token_without_probability_is_never_drawn(self):
        logits = torch.full((4, 6), -torch.inf)
        logits[:, 2] = 1.0
        ends = torch.tensor([0.0, 0.5, 1 - 2**-53, 2**-60], dtype=torch.float64)
        for top_p in (1.0, 0.5):
            assert draw(logits, ends, GenerationConfig(top_p=top_p)).tolist() == [2, 2, 2, 2]

    @settings(deadline=None, max_examples=15)
    @given(st.lists(texts, min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 9), st.randoms())
    def test_a_response_depends_neither_on_the_batch_nor_on_the_order(
        self, prompts: list[str], G: int, rows: int, rng: random.Random
    ):
        some = processor(max_new_tokens=12)
        first = responses(some.generate_batched(prompts, G, seed=7))
        assert responses(some.generate_batched(prompts, G, seed=7, gen_batch_size=rows)) == first
        order = rng.sample(range(len(prompts)), len(prompts))
        again = responses(some.generate_batched([prompts[i] for i in order], G, seed=7))
        assert sorted(again) == sorted(first)
        if len(set(prompts)) == len(prompts):
            assert again == [first[i] for i in order]
        parts = some.stream(iter(prompts), G, gen_batch_size=rows, seed=7)
        assert [group for part in parts for group in responses(part)] == first

    def test_tokens_bound_a_batch_as_rows_do(self):
        seen: list[tuple[int, int]] = []
        model = tiny.model()
        model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(tuple(kwargs["attention_mask"].shape)), with_kwargs=True
        )
        unbound = responses(processor(tiny.model()).generate_batched(tiny.PROMPTS, G=4, seed=1))
        bound = processor(model, max_batch_tokens=100, gen_batch_size=3)
        assert responses(bound.generate_batched(tiny.PROMPTS, G=4, seed=1)) == unbound
        assert max(rows for rows, _ in seen) == 3
        assert all(rows == 1 or rows * length <= 100 for rows, length in seen)

    def test_a_prompt_is_read_once_however_many_responses_it_has(self):
        read: list[tuple[int, ...]] = []
        model = tiny.model()
        model.register_forward_pre_hook(
            lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        processor(model, gen_batch_size=4).generate_batched(tiny.PROMPTS, G=10, seed=1)
        lengths = [len(ids) for ids in tiny.tokenizer()(tiny.PROMPTS)["input_ids"]]
        assert [shape for shape in read if shape[1] > 1] == [(1, n) for n in sorted(lengths)[::-1] if n > 1]

    def test_equal_prompts_and_responses_of_one_prompt_differ(self):
        twice = responses(processor().generate_batched(["What is 2"] * 2, G=3, seed=1))
        assert len({tuple(response) for group in twice for response in group}) == 6

    def test_the_same_seed_gives_the_same_and_another_does_not(self):
        some = processor()
        first, again, other = (responses(some.generate_batched(["What"], G=2, seed=s)) for s in (1, 1, 2))
        assert first == again != other

    def test_without_a_seed_torchs_own_decides(self):
        some = processor()
        torch.manual_seed(5)
        first, second = (responses(some.generate_batched(["What"], G=2)) for _ in range(2))
        torch.manual_seed(5)
        assert responses(some.generate_batched(["What"], G=2)) == first != second

    def test_logits_that_are_no_numbers_name_their_prompt(self):
        broken = likely(tiny.model(), 5, bias=float("nan"))
        for sample in (True, False):
            with pytest.raises(
                ValueError, match=r"prompt \d \(\d+ tokens\), response 0: the logits of its token 0"
            ):
                processor(broken, do_sample=sample).generate_batched(["7", "What is"], G=1)


class TestWhatEndsAResponse:
    def test_the_end_token_counts_and_nothing_follows_it(self):
        model = likely(tiny.model(), 0)
        for pad in (tiny.PAD, tiny.END, None):
            sequences = processor(model, pad=pad).generate_batched(["7", "What is"], G=2)
            assert responses(sequences) == [[[0], [0]], [[0], [0]]]
            assert sequences.responses_text == [["", ""], ["", ""]]

    def test_the_models_other_end_tokens_end_it_too(self):
        model = likely(tiny.model(), 9)
        model.generation_config.eos_token_id = [0, 9]
        assert responses(processor(model).generate_batched(["7"], G=1)) == [[[9]]]

    @pytest.mark.parametrize("answer", ["<answer>5</answer>", "<answer>5</answer>.", " 5 </answer>"])
    def test_an_answer_ends_it_across_merged_tokens(self, answer: str):
        own = tiny.tokenizer()("</answer>")["input_ids"]
        merged = str(own)[1:-1] not in str(tiny.tokenizer()(answer)["input_ids"])
        assert merged == (answer != "<answer>5</answer>"), "in two of them the tag's own tokens do not occur"
        script = Script("Solve: 7", answer)
        sequences = processor(script).generate_batched(["Solve: 7"], G=2)
        assert responses(sequences) == [[[*script.answer, 0]] * 2]
        assert sequences.responses_text == [[answer, answer]]

    def test_an_answer_ends_its_row_alone(self):
        script, long = Script("Solve: 7", "<answer>5</answer>"), "What is it? " * 6
        for prompts in (["Solve: 7", long], [long, "Solve: 7"]):
            sequences = processor(script).generate_batched(prompts, G=1)
            lengths = dict(zip(prompts, [lens[0] for lens in sequences.gen_lens], strict=True))
            assert lengths == {"Solve: 7": len(script.answer) + 1, long: 16}

    def test_an_answer_in_the_prompt_ends_nothing(self):
        prompt = "Write <answer> 5 </answer>\n now?"
        assert processor(Script(prompt, "x")).generate_batched([prompt], G=1).gen_lens == [[16]]

    def test_without_room_or_end_token_an_answer_just_ends(self):
        script = Script("Solve: 7", "<answer>5</answer>")
        full = processor(script, max_new_tokens=len(script.answer))
        assert responses(full.generate_batched(["Solve: 7"], G=1)) == [[script.answer]]
        endless = processor(script)
        tokenizer: Any = endless.tokenizer
        tokenizer.eos_token = None
        assert responses(endless.generate_batched(["Solve: 7"], G=1)) == [[script.answer]]

    def test_no_stop_strings_stop_nothing(self):
        script = Script("Solve: 7", "<answer>5</answer>")
        assert processor(script, stop_strings=()).generate_batched(["Solve: 7"], G=1).gen_lens == [[16]]

    @settings(deadline=None)
    @given(texts, st.sampled_from(["</answer>", ">.", "é", " "]), texts)
    def test_it_is_seen_with_the_first_token_that_completes_it(self, before: str, stop: str, after: str):
        tokenizer = tiny.tokenizer()
        ids: list[int] = tokenizer(before + stop + after)["input_ids"]
        ends = StopAfterAnswer(tokenizer, [stop])
        first = next(i for i in range(1, len(ids) + 1) if stop in tokenizer.decode(ids[:i]))
        assert [ends(ids[:i]) for i in range(1, first + 1)] == [False] * (first - 1) + [True]
