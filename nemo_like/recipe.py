"""The recipe: what a run makes of a row of its input before it is sent to the agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from nemo_like.errors import RowError
from nemo_like.prompt_config import PromptConfig
from nemo_like.skills import Skills
from nemo_like.types import Json, merged, parse_arguments


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Templates, then skills, then the parameters of the command line, then the seed of the repeat."""

    prompt: PromptConfig | None = None
    skills: Skills | None = None
    skills_in_prompt: bool = False
    params: Json = field(default_factory=dict[str, Any])
    """Merged deeply over the row's `responses_create_params`."""
    add_seed: bool = False
    """Whether repeats have seeds of their own, `seed` of the parameters (or 0) + the repeat's number."""

    @property
    def identity(self) -> Json:
        """What decides, of all this, what the rollouts are."""
        identity: Json = {f"responses_create_params.{key}": value for key, value in self.params.items()}
        if self.prompt is not None:
            identity["prompt_config"] = self.prompt.fingerprint
        if self.skills is not None:
            identity["skills"] = self.skills.hash
            identity["skills.in_prompt"] = self.skills_in_prompt
        if self.add_seed:
            identity["num_repeats_add_seed"] = True
        return identity

    def complete(self, row: Json) -> Json:
        """A row with the input that the templates make of it; what else is to be done to it is tried.

        Raises:
            RowError: that can't be done.
        """
        if "skills_ref" in row and self.skills is not None:
            raise RowError("the row has a 'skills_ref' already; skills.path is for rows without")
        row = row if self.prompt is None else self.prompt.complete(row)
        if self.add_seed and isinstance(params := row.get("responses_create_params"), dict):
            _seeded(merged(cast(Json, params), self.params), 0)
        return row

    def task(self, row: Json, repeat: int) -> Json:
        """What is sent to the agent for a repeat (from 0) of a row."""
        row = self.complete(row)
        params: Json = merged(row["responses_create_params"], self.params)
        if self.add_seed:
            params = _seeded(params, repeat)
        if self.skills is None:
            return row | {"responses_create_params": params}
        if self.skills_in_prompt:
            own = params.get("instructions")
            text = self.skills.instructions
            params |= {"instructions": f"{own}\n\n{text}" if own else text}
        return row | {"responses_create_params": params, "skills_ref": self.skills.ref}


def _seeded(params: Json, repeat: int) -> Json:
    """The seed goes where NeMo Gym puts it: into the JSON of `metadata.extra_body`, which a model server
    unpacks for an engine, and which the Responses API, that has no seed, takes as a note."""
    metadata: Any = params.get("metadata") or {}
    seed = params.get("seed") or 0
    extra = (
        parse_arguments(cast(Json, metadata).get("extra_body") or {}) if isinstance(metadata, dict) else None
    )
    if extra is None or not isinstance(seed, int):
        raise RowError(
            "num_repeats_add_seed needs a whole number as 'seed', and JSON as 'metadata.extra_body'"
        )
    extra_body = orjson.dumps(extra | {"seed": seed + repeat}).decode()
    others = {key: value for key, value in params.items() if key != "seed"}
    return others | {"metadata": cast(Json, metadata) | {"extra_body": extra_body}}
