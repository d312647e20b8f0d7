"""Rewards, metrics and difficulty buckets of rollouts; see README_difficulty_filter.md."""

import sys

from nemo_like.analyze_commands import analyze_rollouts

if __name__ == "__main__":
    sys.exit(analyze_rollouts())
