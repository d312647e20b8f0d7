"""Rollouts as training data: `ng_export +rollouts=results/a.jsonl +format=sft +output=data/sft`.

settings      what an export is asked for
rollout       a row of any rollouts file, as the formats see it
format        what a format is, and the registry of them
conversations preferences groups tokens dumps   the formats, pure, one file a family
selection     which rollouts are kept, and why the others are not
sources       the files: as lines, or as the rollouts of a task side by side
convert       a piece of a file → finished lines; in this process or in several
containers    JSONL, parquet, a data set of Hugging Face (`saved`)
card          what made the data, as a page and as JSON
export        all of it
"""

from nemo_like.export.format import FORMATS

FAMILIES = {
    "conversations": ("sft", "prompt_completion", "openai", "kto", "best_of_n", "verl_sft"),
    "preferences": ("dpo", "reward_pairs", "nemo_rl_dpo"),
    "groups": ("grpo", "prompts", "verl_rl", "verl_responses"),
    "tokens": ("tokens", "verl_tokens", "skyrl_tokens", "nemo_rl_tokens"),
    "dumps": ("verl_dump", "verifiers", "prime_rl"),
}

FORMATS.found_in({name: f"{__name__}.{family}" for family, names in FAMILIES.items() for name in names})
