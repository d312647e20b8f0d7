"""Generation: a prompt is read once, its responses are drawn together, and each ends on its own.

# P prompts read together, N rows (responses) drawn together, V vocabulary
"""

# torch's own types are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from nemo_like.sequence_processing.batches import Limits, in_batches
from nemo_like.sequence_processing.model import CausalModel, select
from nemo_like.sequence_processing.sampling import draw, uniforms
from nemo_like.sequence_processing.sequences import GenerationConfig
from nemo_like.sequence_processing.stopping import StopAfterAnswer


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What is to be continued."""

    ids: list[int]
    name: str
    """What errors call it."""
    occurrence: int = 0
    """How many equal prompts came before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """Prompts as the model has read them."""

    prompts: list[Prompt]
    logits: torch.Tensor  # [P, V] after each prompt
    cache: Any
    mask: torch.Tensor  # [P, length of the longest], 0 for padding on the left
    lengths: torch.Tensor  # [P]


class Generation:
    """What responses of one call are drawn with."""

    def __init__(
        self,
        model: CausalModel,
        config: GenerationConfig,
        *,
        stop: StopAfterAnswer,
        end_tokens: Sequence[int],
        seed: int,
        limits: Limits,
    ) -> None:
        """`end_tokens` end a response; the first of them is what follows a stop string."""
        self._model, self._config, self._stop = model, config, stop
        self._end_tokens, self._seed, self._limits = list(end_tokens), seed, limits

    def respond(self, prompts: Sequence[Prompt], G: int) -> list[list[list[int]]]:
        """`G` responses to each prompt, as token ids [P][G][·]; the same whatever the batches.

        Raises:
            ValueError: the logits of a row are no numbers.
            RuntimeError: one response alone does not fit into memory.
        """
        responses: list[list[list[int]]] = [[[] for _ in range(G)] for _ in prompts]
        room = self._config.max_new_tokens
        if not (prompts and G and room):
            return responses
        rows, tokens = self._limits.rows, self._limits.tokens
        beside = min(G, rows)
        reading = Limits(rows=max(1, rows // G), tokens=max(1, tokens // beside))

        def group(indices: list[int]) -> None:
            read = self._read([prompts[i] for i in indices])
            pairs = list(product(range(len(indices)), range(G)))
            sizes = [len(prompts[indices[p]].ids) + room for p, _ in pairs]

            def tell(row: int) -> str:
                return prompts[indices[pairs[row][0]]].name

            def work(batch: list[int]) -> list[list[int]]:
                return self._continue(read, [pairs[i] for i in batch])

            for batch, drawn in in_batches(sizes, work, self._limits, tell=tell):
                for i, response in zip(batch, drawn, strict=True):
                    p, g = pairs[i]
                    responses[indices[p]][g] = response

        sizes = [len(prompt.ids) + room for prompt in prompts]
        equal = not self._model.takes_positions
        for _ in in_batches(sizes, group, reading, tell=lambda i: prompts[i].name, equal=equal):
            pass
        return responses

    def _read(self, prompts: list[Prompt]) -> _Read:
        lengths = [len(prompt.ids) for prompt in prompts]
        longest, device = max(lengths), self._model.device
        # Padding stands on the left here, so that the last position is every prompt's end.
        ids = torch.tensor([[0] * (longest - len(p.ids)) + p.ids for p in prompts], device=device)
        mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths], device=device)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        logits, cache = self._model.step(ids, mask, positions, None)
        counts = torch.tensor(lengths, device=device)
        return _Read(prompts=prompts, logits=logits, cache=cache, mask=mask, lengths=counts)

    def _continue(self, read: _Read, rows: list[tuple[int, int]]) -> list[list[int]]:
        """The responses of `rows`, each (prompt, response)."""
        config, device, room = self._config, self._model.device, self._config.max_new_tokens
        index = torch.tensor([p for p, _ in rows], device=device)
        cache, logits = select(read.cache, index), read.logits[index]  # [N, V]
        mask, positions = read.mask[index], read.lengths[index].unsqueeze(-1)
        numbers = self._numbers(read, rows).to(device)  # [N, room]
        responses: list[list[int]] = [[] for _ in rows]
        going = set(range(len(rows)))
        held = list(range(len(rows)))  # the rows that the tensors hold
        for step in range(room):
            drawn = draw(logits, numbers[:, step].to(logits.device), config).to(device)
            for row, token in zip(held, drawn.tolist(), strict=True):
                if row in going and token < 0:
                    name = f"{read.prompts[rows[row][0]].name}, response {rows[row][1]}"
                    raise ValueError(f"{name}: the logits of its token {step} are not finite")
                if row in going and self._ends(responses[row], token):
                    going.remove(row)
            if not going or step == room - 1:
                break
            if 2 * len(going) <= len(held):
                kept = torch.tensor([i for i, row in enumerate(held) if row in going], device=device)
                cache.batch_select_indices(kept)
                mask, positions, numbers, drawn = mask[kept], positions[kept], numbers[kept], drawn[kept]
                held = [row for row in held if row in going]
            mask = torch.cat([mask, mask.new_ones(len(held), 1)], dim=-1)
            # A row that has ended goes on unread until it is dropped, and may hold anything.
            logits, cache = self._model.step(drawn.clamp(min=0).unsqueeze(-1), mask, positions, cache)
            positions = positions + 1
        return responses

    def _numbers(self, read: _Read, rows: list[tuple[int, int]]) -> torch.Tensor:
        room = self._config.max_new_tokens
        if not self._config.do_sample:
            return torch.zeros(len(rows), room)
        prompts = ((read.prompts[p], g) for p, g in rows)
        return torch.stack(
            [uniforms(self._seed, prompt.ids, prompt.occurrence, g, room) for prompt, g in prompts]
        )

    def _ends(self, response: list[int], token: int) -> bool:
        """Adds a token, and an end token behind an answer; whether the response has ended."""
        response.append(token)
        if token in self._end_tokens:
            return True
        if not self._stop(response):
            return False
        if self._end_tokens and len(response) < self._config.max_new_tokens:
            response.append(self._end_tokens[0])
        return True
