"""Makes quickstart.jsonl: a few tasks of each environment of the quickstart, each naming its agent.

Run it from the repository's root: `python data/make_quickstart.py`.
"""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

from nemo_like.registry import load_file

ROOT = Path(__file__).parent.parent
TASKS = {"arithmetic": 8, "json_extraction": 6, "word_count": 4, "example_multi_step": 2}


def main() -> None:
    """Write the file."""
    rows = [
        row | {"agent_ref": {"type": "responses_api_agents", "name": f"{name}_simple_agent"}}
        for name, n in TASKS.items()
        for row in islice(
            load_file(ROOT / f"resources_servers/{name}/make_data.py").tasks(random.Random(1)), n
        )
    ]
    file = ROOT / "data" / "quickstart.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
