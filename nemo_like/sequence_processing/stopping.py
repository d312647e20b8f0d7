"""When a response ends: at its end token, or once its text holds a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_like.sequence_processing.sequences import Tokenizer, decoded


class StopAfterAnswer:
    """Whether a response has given its answer: whether its text holds one of the `stop_strings`.

    It looks at text, as tokens merge (`>` and a full stop may be one), and at one response, never at its
    prompt, which may well show the tags it asks for. A response is only decoded when its newest token can
    have completed a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = ("</answer>",)) -> None:
        self._tokenizer = tokenizer
        self._stop_strings = tuple(stop_strings)
        self._completes: dict[int, bool] = {}

    def __call__(self, response: Sequence[int]) -> bool:
        """Whether the last token of `response`, token ids, brought the answer to its end."""
        return bool(response) and self._may_complete(response[-1]) and self.answered(response)

    def answered(self, response: Sequence[int]) -> bool:
        """Whether the text of `response` holds a stop string anywhere."""
        if not self._stop_strings:
            return False
        text = decoded(self._tokenizer, response, special=True)
        return any(stop in text for stop in self._stop_strings)

    def _may_complete(self, token: int) -> bool:
        if token not in self._completes:
            text = decoded(self._tokenizer, [token], special=True)
            # A character outside of ASCII may end in any token, as part of it.
            self._completes[token] = any(
                not stop[-1].isascii() or stop[-1] in text or stop[-1].isspace()
                for stop in self._stop_strings
            )
        return self._completes[token]
