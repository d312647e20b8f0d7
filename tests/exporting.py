"""What the tests of exporting share: rollouts of every kind, a tokenizer of bytes with a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nemo_like import chat
from nemo_like.export.export import Exported, export
from nemo_like.export.settings import ExportConfig

from .conftest import Json, write_jsonl

TOOL = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }} {{ c.function.arguments }}</tool_call>"
    "{% endfor %}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, ChatML around the messages."""
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE({token: i for i, token in enumerate(special + letters)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(special)
    made = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<|pad|>", eos_token="<|im_end|>")
    made.chat_template = TEMPLATE
    return made


def items(text: str) -> list[Json]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return [
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
    ]


def rollout(key: str, index: int = 0, reward: float | None = 1.0, text: str = "4", **fields: Any) -> Json:
    """A row as the collector writes it; `output_items` in place of the text, `truncated`, any fields."""
    output = fields.pop("output_items", None) or items(text)
    status = "incomplete" if fields.pop("truncated", False) else "completed"
    params = {"input": [{"role": "user", "content": f"What is {key}?"}], "temperature": 0.7}
    usage = {"input_tokens": 9, "output_tokens": len(text), "total_tokens": 9 + len(text)}
    row: Json = {
        "responses_create_params": params | fields.pop("params", {}),
        "expected_answer": "4",
        "agent_ref": {"name": "math_agent"},
        "response": {"output": output, "status": status, "usage": usage, "model": "a-model"},
        "output": chat.conversation(output),
        "success": reward is not None and reward >= 1.0,
        "metadata": {"total_s": 0.5},
        "_ng_task_key": key,
        "_ng_task_index": 0,
        "_ng_rollout_index": index,
    }
    return row | ({} if reward is None else {"reward": reward}) | fields


def tool_items(
    said: list[str], results: list[str], tokens: PreTrainedTokenizerFast | None = None
) -> list[Json]:
    """A conversation of tool turns as output items: each of `said` but the last calls `add`.

    With a tokenizer each turn has the token ids that a server would give it: the prompt's as the template
    renders them, then those of the turn, each with a log-probability.
    """
    messages: list[Json] = [{"role": "user", "content": "Add."}]
    output: list[Json] = []
    for turn, text in enumerate(said):
        arguments = json.dumps({"a": turn, "b": 1})
        last = turn == len(said) - 1
        call = "" if last else f"<tool_call>add {arguments}</tool_call>"
        output += items(text) if text else []
        if not last:
            name = {"name": "add", "arguments": arguments, "call_id": f"call_{turn}"}
            output.append({"type": "function_call", "id": f"fc_{turn}", **name})
        if tokens is not None:
            prompt = tokens.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            made = tokens.encode(f"{text}{call}<|im_end|>", add_special_tokens=False)
            output[-1] |= {
                "prompt_token_ids": list(prompt),
                "generation_token_ids": made,
                "generation_log_probs": [-0.5 - turn] * len(made),
            }
        messages.append({"role": "assistant", "content": text + call})
        if not last:
            answer = {"call_id": f"call_{turn}", "output": results[turn]}
            output.append({"type": "function_call_output", **answer})
            messages.append({"role": "tool", "content": results[turn]})
    return output


def mixed_rows(tokens: PreTrainedTokenizerFast | None = None) -> list[Json]:
    """Ten tasks, four rollouts each: right and wrong, cut off, with reasoning, tools, odd fields."""
    rows: list[Json] = []
    for task in range(10):
        for index in range(4):
            reward = float((task + index) % 3 == 0)
            text = f"It is {task + index}. " + "Because. " * index
            fields: Json = {"note": {"n": task} if task % 2 else ["a", index], "format_reward": index / 4}
            if task % 3 == 0:
                said = [f"Let me add {index}.", "" if index else "Again.", text]
                output = tool_items(said, [f"{index}", "☃ 7"], tokens)
                fields |= {"output_items": output, "params": {"tools": [TOOL]}}
            elif tokens is not None:
                output = tool_items([text], [], tokens)
                fields |= {"output_items": output}
            if task % 5 == 1 and tokens is None:
                thought = {"type": "reasoning", "summary": [], "content": [{"text": f"Hm, {index}."}]}
                fields["output_items"] = [thought, *items(text)]
            fields["truncated"] = task == 4 and index == 1
            rows.append(rollout(f"task {task}", index, reward, text, **fields))
    return rows


def exported(folder: Path, rows: list[Json], format: str, **settings: Any) -> tuple[list[Json], Exported]:
    """What rows become, as JSONL, and what was said of it."""
    path = write_jsonl(folder / "rollouts.jsonl", rows)
    settings = {"output": folder / "out", "overwrite": True, **settings}
    done = export(
        ExportConfig.from_mapping({"rollouts": path, "format": format, **settings}, where="the test")
    )
    train = folder / "out" / "train.jsonl"
    lines = train.read_text().splitlines() if train.is_file() else []
    return [json.loads(line) for line in lines], done
