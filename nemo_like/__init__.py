"""Agents, models and verifiers as servers composed from YAML; tasks in, verified rollouts out, as JSONL."""

__version__ = "0.1.0"
