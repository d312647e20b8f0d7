"""Generate responses to prompts, without rewards: `python scripts/generate_rollouts.py --help`."""

import sys

from nemo_like.generate import main

if __name__ == "__main__":
    sys.exit(main())
