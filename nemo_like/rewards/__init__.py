"""The reward functions: `(task, response) -> score`, pure, by name.

    from nemo_like.rewards import rewards
    rewards.get("last_number")(task, response)      # {"reward": 1.0, "extracted_answer": "12"}

What is judged is `response.text`, the last assistant message: never the prompt, never reasoning. Where
an answer gives several candidates the last one counts, and only that one, so listing many answers gains
nothing.
"""

from nemo_like.rewards import json_fields, last_number, word_count
from nemo_like.rewards.reward import Reward, Runs, reward, rewards, runs, task_type

__all__ = [
    "Reward",
    "Runs",
    "json_fields",
    "last_number",
    "reward",
    "rewards",
    "runs",
    "task_type",
    "word_count",
]
