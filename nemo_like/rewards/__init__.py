"""The reward functions: `(task, response) -> score`, pure, by name.

    from nemo_like.rewards import rewards
    rewards.get("last_number")(task, response)      # {"reward": 1.0, "extracted_answer": "12"}

What is judged is `response.text`, the last assistant message: never the prompt, never reasoning. Where
an answer gives several candidates the last one counts, and only that one, so listing many answers gains
nothing.
"""

from nemo_like.rewards.reward import (
    Reward,
    Runs,
    Score,
    reference,
    reward,
    rewards,
    runs,
    task_type,
)

__all__ = ["Reward", "Runs", "Score", "reference", "reward", "rewards", "runs", "task_type"]

NAMES = (
    *(
        "exact_match",
        "instruction_following",
        "json_fields",
        "json_schema",
        "last_number",
        "llm_judge",
        "math",
    ),
    *("mcqa", "reasoning_gym", "regex", "string_match", "tool_calls", "verl", "word_count"),
)

# Each in the module of its name, imported when it is asked for: some stand on heavy packages.
rewards.found_in({name: f"{__name__}.{name}" for name in NAMES})
