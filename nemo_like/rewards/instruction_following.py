"""An answer that follows instructions which can be checked without a model: IFEval's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from nemo_like.errors import did_you_mean
from nemo_like.rewards.ifeval_checks import INSTRUCTIONS, Check, bind
from nemo_like.rewards.reward import reward
from nemo_like.types import Json, Response, Task

GradingMode = Literal["binary", "fraction"]
Strictness = Literal["strict", "loose"]


class InstructionTask(Task):
    """A task with instructions by IFEval's ids, and the kwargs of each."""

    instruction_id_list: list[str] = Field(min_length=1)
    kwargs: list[Json | None]
    grading_mode: GradingMode | None = None
    strictness: Strictness | None = None

    @field_validator("instruction_id_list")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in INSTRUCTIONS:
                raise ValueError(f"there is no instruction '{name}'{did_you_mean(name, [*INSTRUCTIONS])}")
        return names

    @field_validator("kwargs")
    @classmethod
    def _fitting(cls, kwargs: list[Json | None], info: ValidationInfo) -> list[Json | None]:
        names = info.data.get("instruction_id_list", [])
        if names and len(kwargs) != len(names):
            raise ValueError(f"should have one object for each of the {len(names)} instructions")
        for name, values in zip(names, kwargs, strict=bool(names)):
            bind(name, values)
        return kwargs

    def checks(self) -> list[Check]:
        """The check of each instruction, in the order of the row."""
        return [
            bind(name, kwargs) for name, kwargs in zip(self.instruction_id_list, self.kwargs, strict=True)
        ]


@reward("instruction_following", runs="pool")
def instruction_following(
    task: InstructionTask,
    response: Response,
    *,
    grading_mode: GradingMode = "binary",
    strictness: Strictness = "strict",
) -> Json:
    """1.0 iff the answer follows all instructions; under `grading_mode` "fraction", the share it follows.

    `strictness` "loose" judges the best of eight variants of the answer, instruction by instruction. Both
    verdicts are recorded: `prompt_…` is 1.0 iff all instructions are followed, `instruction_…` the share,
    `follow_instruction_list` has the verdicts that counted. What the row says of either option wins.
    """
    text = response.text
    checks = task.checks()
    variants = loose_variants(text)
    follow = {
        "strict": [bool(text.strip()) and check(text) for check in checks],
        "loose": [any(map(check, variants)) for check in checks],
    }
    verdict: Json = {}
    for name, followed in follow.items():
        verdict[f"prompt_{name}"] = float(all(followed))
        verdict[f"instruction_{name}"] = sum(followed) / len(followed)
    counts = task.strictness or strictness
    unit = "prompt" if (task.grading_mode or grading_mode) == "binary" else "instruction"
    return {
        "reward": verdict[f"{unit}_{counts}"],
        "follow_instruction_list": follow[counts],
        **{f"follow_instruction_list_{name}": followed for name, followed in follow.items()},
        **verdict,
    }


def loose_variants(text: str) -> list[str]:
    """The text, and it without its first line, its last and both, each of them without asterisks too.

    Those that are blank or equal to another are left out; the text itself comes first.
    """
    lines = text.split("\n")
    shorter = ("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))
    variants = [text, *shorter]
    variants += [variant.replace("*", "") for variant in variants]
    return [variant for variant in dict.fromkeys(variants) if variant.strip()]
