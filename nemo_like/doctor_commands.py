"""The command that looks whether a machine is fit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from pydantic import Field

from nemo_like.command import command
from nemo_like.settings import Settings


class DoctorConfig(Settings):
    """What `ng_doctor` looks at, besides the machine."""

    policy_base_url: str = ""
    """The model endpoint, if there is one."""
    policy_api_key: str = ""
    """Its key."""
    policy_model_name: str = ""
    """The model to ask it for."""
    json_output: bool = Field(False, alias="json")
    """Whether to print JSON, one object a line."""


def doctor() -> int:
    """Check the machine, the optional parts and the model endpoint, and say what to do.

    The endpoint is that of env.yaml or the command line. The exit status is 1 where something is broken; a
    warning is about something that not everybody needs.
    """
    import orjson

    from nemo_like.checkup import Finding, findings
    from nemo_like.config import load

    async def main(arguments: Sequence[str]) -> int:
        wanted: DoctorConfig = load(arguments, DoctorConfig).settings(DoctorConfig)
        looked = findings(
            base_url=wanted.policy_base_url,
            api_key=wanted.policy_api_key,
            model_name=wanted.policy_model_name,
        )
        failed = 0
        while (finding := await asyncio.to_thread(next, looked, None)) is not None:
            failed += finding.state == "fail"
            print(
                orjson.dumps(asdict(finding)).decode() if wanted.json_output else _line(finding), flush=True
            )
        return 1 if failed else 0

    def _line(finding: Finding) -> str:
        advice = f"; {finding.advice}" if finding.advice else ""
        return f"{finding.state:4}  {finding.what}: {finding.found}{advice}"

    return command("ng_doctor", doctor, [DoctorConfig], main)
