"""Rollouts, rewards and difficulty buckets of a data set, in one; see README_difficulty_filter.md."""

import sys

from nemo_like.analyze_commands import filter_difficulty

if __name__ == "__main__":
    sys.exit(filter_difficulty())
