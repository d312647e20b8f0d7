"""Rewards of rollouts, written beside them; see README_difficulty_filter.md."""

import sys

from nemo_like.analyze_commands import analyze_rewards

if __name__ == "__main__":
    sys.exit(analyze_rewards())
