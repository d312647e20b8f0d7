"""A model of this process as samples come from it: prompts in, what the journal keeps out."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_like.drawing import Wanted
from nemo_like.endpoints import Sampling
from nemo_like.errors import Error, PartError
from nemo_like.journal import Sample
from nemo_like.local_model import Answer, LocalModel, OutOfMemory
from nemo_like.prompts import Prompt
from nemo_like.types import Json

Asked = tuple[int, int, Prompt, int]
"""Row of the data, which of its samples, the prompt, the sample's number in the run."""


class LocalEndpoint:
    """A model, and how it is sampled."""

    def __init__(self, model: LocalModel, sampling: Sampling) -> None:
        self.model, self.sampling = model, sampling

    def effective(self, seed: int | None) -> Json:
        """The parameters that a sample with this seed was drawn with."""
        return {
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_tokens,
            "logprobs_mode": "raw_logprobs",
            "seed": seed,
        }

    def sample(self, asked: Sequence[Asked]) -> list[Sample | PartError]:
        """A response to each, in order, or why there is none.

        Raises:
            Error: the device has too little memory for a batch.
        """
        wanted = [self._wanted(prompt, number) for _, _, prompt, number in asked]
        fitting = [each for each in wanted if isinstance(each, Wanted)]
        try:
            answers = iter(self.model.generate(fitting))
        except OutOfMemory as error:
            raise Error(f"{error}; a --batch_size under {len(fitting)} resumes") from error
        return [
            each if isinstance(each, PartError) else self._sample(asked[i], each, next(answers))
            for i, each in enumerate(wanted)
        ]

    def _wanted(self, prompt: Prompt, number: int) -> Wanted | PartError:
        """A prompt through the chat template, as a server would, or raw where there is none."""
        sampling, where = self.sampling, self.model.path
        if sampling.raw and not prompt.plain:
            hint = "ask it without --completions"
            return PartError(
                "bad_request", "a list of messages can't be continued as text", where=where, hint=hint
            )
        try:
            templated = self.model.chat_template and not sampling.raw
            ids = self.model.encode(prompt.messages) if templated else self.model.encode_text(prompt.text)
        except PartError as error:
            return error
        if not ids:
            return PartError("bad_request", "the prompt has no tokens", where=where)
        limit = self.model.context_tokens
        if limit is not None and len(ids) + sampling.max_tokens > limit:
            message = f"a prompt of {len(ids)} tokens and max_tokens={sampling.max_tokens}"
            message += f" are more than the {limit} of the model"
            return PartError("context_overflow", message, where=where)
        return Wanted(
            ids=ids,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed_of(number) or 0,
        )

    def _sample(self, asked: Asked, wanted: Wanted, answer: Answer | PartError) -> Sample | PartError:
        if isinstance(answer, PartError):
            return answer
        data_idx, sample_idx, prompt, _ = asked
        with_ids = self.sampling.with_token_ids
        return Sample(
            data_idx=data_idx,
            sample_idx=sample_idx,
            key=prompt.key,
            response=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=len(wanted.ids),
            completion_tokens=len(answer.tokens),
            seed=wanted.seed,
            prompt_token_ids=wanted.ids if with_ids else None,
            response_token_ids=answer.tokens if with_ids else None,
            response_logprobs=answer.logprobs if with_ids else None,
        )
