"""Conversations as people write them, read into the messages that chat templates take.

Two styles are read: OpenAI's, dicts with role and content, and ShareGPT's, with from and value. A cell may hold
either as JSON or as Python or numpy prints a list, which is what csv files have, or be a transcript of Human: and
Assistant:.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Any

from peft_nb.data import RowProblem, printed
from peft_nb.errors import nearest

# role is system, user, assistant or tool; content is text. An assistant's message that calls tools also has
# tool_calls (arguments as a dict) and may have the content ""; it may have reasoning_content, and the weight 0 where it
# is not to be learned. name and tool_call_id are there where they are given. The first message of a conversation has
# tools, their definitions, so that what is cut out of it keeps them.
Message = dict[str, Any]
Style = tuple[str, str]  # the keys of a message that hold who speaks and what

OPENAI: Style = ("role", "content")
SHAREGPT: Style = ("from", "value")
SPEAKERS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bard", "bing", "bot", "model", "function_call", "tool_call"), "assistant"
    ),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response"), "tool"),
}
CALLS = ("function_call", "tool_call")  # speakers whose text is the JSON of a call, as in ShareGPT files
REASONING = ("reasoning_content", "thinking", "reasoning")
FLAGS = ("weight", "loss", "train", "training", "trainable", "loss_weight", "loss_mask")  # is an answer learned?
FLAG_VALUES = {
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
    **dict.fromkeys(("1", "1.0", "true", "yes", ""), True),
}
PASSED_ON = ("name", "tool_call_id")
TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def text(value: Any) -> str:
    """Read a cell of text or of a number; RowProblem for anything else."""
    if isinstance(value, (str, int, float)):
        return str(value)
    raise RowProblem(f"holds a {type(value).__name__}, not text", "turn it into text or name another column")


def parse_cell(cell: Any) -> Any:
    """Give the list that a cell holds as text (JSON, Python, numpy or a transcript); any other cell as it is."""
    if not isinstance(cell, str):
        return cell
    start = cell.lstrip()
    if start.startswith(("[", "array(")):
        return printed.read(start, cell)
    if start.startswith("Human:") and len(turns := TURN.split(cell)[1:]) > 2:
        if not turns[-1].strip():  # a prompt that ends where the assistant is to speak
            turns = turns[:-2]
        return [{"from": who, "value": said.strip()} for who, said in zip(turns[::2], turns[1::2], strict=True)]
    return cell


def style(cell: Any) -> Style | None:
    """Tell in which style a cell holds messages, by the first of them; None where it holds none."""
    turns = parse_cell(cell)
    first = turns[0] if isinstance(turns, (list, tuple)) and turns else turns
    if not isinstance(first, Mapping):
        return None
    return next((keys for keys in (OPENAI, SHAREGPT) if first.get(keys[0]) is not None), None)


def is_written(cell: Any) -> bool:
    """Tell whether what text holds is a conversation: every message with both keys, each of a known speaker."""
    turns = parse_cell(cell)
    keys = style(turns)
    if keys is None or not isinstance(turns, Sequence):
        return False
    return all(
        isinstance(turn, Mapping) and role_of(turn.get(keys[0])) and (keys[1] in turn or "tool_calls" in turn)
        for turn in turns
    )


def role_of(speaker: Any) -> str | None:
    """The role that a speaker has by any of its names; None for an unknown one."""
    return SPEAKERS.get(str(speaker).strip().lower())


def read(cell: Any, keys: Style) -> list[Message]:
    """Read the messages of a cell, be they a conversation or a part of one.

    Parameters
    ----------
    cell : object
        A list of dicts, one dict, or text that holds such a list.
    keys : tuple of str and str
        `OPENAI` or `SHAREGPT`.

    Returns
    -------
    list of dict
        Messages; empty system messages are left out.

    Raises
    ------
    RowProblem
        When it is no such list, or a message is malformed, empty or of an unknown role.
    """
    turns = parse_cell(cell)
    if isinstance(turns, Mapping):
        turns = [turns]
    if not isinstance(turns, (list, tuple)):
        fix = f"give a list such as [{{{keys[0]!r}: 'user', {keys[1]!r}: …}}, {{{keys[0]!r}: 'assistant', …}}]"
        raise RowProblem(f"holds a {type(turns).__name__}, not a list of messages", fix)
    messages = [_message(number, turn, keys) for number, turn in enumerate(turns)]
    return [message for message in messages if message["role"] != "system" or message["content"].strip()]


def _message(number: int, message: Any, keys: Style) -> Message:
    named = isinstance(message, Mapping) and message.get(keys[0]) is not None
    if not named or not (keys[1] in message or {"tool_calls", *CALLS} & set(message)):
        other = next((name for name, own in {"messages": OPENAI, "sharegpt": SHAREGPT}.items() if own != keys), "")
        fix = f"set format={other!r}" if style(message) not in (None, keys) else "fix or drop the row"
        raise RowProblem(f"message {number} is not a dict with {keys[0]!r} and {keys[1]!r}", fix)
    speaker = str(message[keys[0]]).strip().lower()
    if speaker not in SPEAKERS:
        hint = nearest(speaker, SPEAKERS)
        fix = "roles are system, user, assistant, tool and their usual other names"
        raise RowProblem(f"message {number} has the role {message[keys[0]]!r}{hint}", fix)
    role, who = SPEAKERS[speaker], f"message {number} ({speaker})"
    try:
        content = _content(message.get(keys[1]))
        calls = _calls(content if speaker in CALLS else message.get("tool_calls") or message.get("function_call"))
    except RowProblem as problem:
        raise RowProblem(f"{who} {problem.reason}", problem.fix) from None
    more = {key: message[key] for key in PASSED_ON if message.get(key)}
    if role == "assistant":
        reasoning = next((text(message[key]) for key in REASONING if message.get(key)), "")
        more |= {"reasoning_content": reasoning} if reasoning else {}
        more |= {} if _is_learned(message, who) else {"weight": 0}
        if calls:
            return {"role": role, "content": "" if speaker in CALLS else content, "tool_calls": calls, **more}
    if not content.strip() and role in ("user", "assistant"):
        raise RowProblem(f"{who} is empty")
    return {"role": role, "content": content, **more}


def _is_learned(message: Mapping[str, Any], who: str) -> bool:
    """Tell from its flags whether an answer is to be learned; the weight of OpenAI, the names of other tools."""
    for key in FLAGS:
        value = message.get(key)
        if value is not None and not (learned := _flag(value)):
            if learned is None:
                fix = "write 1 for an answer that is learned and 0 for one that is not"
                raise RowProblem(f"{who} has {key} {value!r}, and an answer is learned or not", fix)
            return False
    return True


def _flag(value: Any) -> bool | None:
    """What a flag says; None where it says neither."""
    return FLAG_VALUES.get(str(value).strip().lower())


def unread(cell: Any) -> Iterator[tuple[str, Any]]:
    """Give the keys of messages that nothing reads, with what they hold; nothing of a cell without messages."""
    turns = parse_cell(cell)
    keys = style(turns)
    if keys is None:
        return
    for turn in [turns] if isinstance(turns, Mapping) else turns:
        role = role_of(turn.get(keys[0])) if isinstance(turn, Mapping) else None
        if role is None:
            continue
        read = {*keys, *PASSED_ON}
        if role == "assistant":
            read |= {"tool_calls", "function_call", *REASONING, *FLAGS}
        for key, value in turn.items():
            unlearned = key in FLAGS and _flag(value) is False
            if key not in read and not unlearned and value not in (None, "", [], {}):
                yield key, value


def _content(value: Any) -> str:
    """Read what is said: text, nothing, or a list of parts that are all text."""
    parts = value if isinstance(value, (list, tuple)) else ()
    if parts and all(isinstance(part, Mapping) and "type" in part for part in parts):
        if other := next((part["type"] for part in parts if part["type"] != "text"), ""):
            raise RowProblem(f"holds {other!r}, not text", "only texts can be trained on: leave the part out")
        return "".join(text(part.get("text")) for part in parts)
    return "" if value is None else text(value)


def _calls(given: Any) -> list[dict[str, Any]]:
    """Read tool calls in the shape of transformers' templates: the arguments a dict, not JSON."""
    try:
        given = json.loads(given) if isinstance(given, str) else given or []
        return [_call(call) for call in ([given] if isinstance(given, Mapping) else given)]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RowProblem(
            "has a tool call that cannot be read", 'write it as {"name": …, "arguments": {…}} in JSON'
        ) from None


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or call
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    named = {"name": str(function["name"]), "arguments": dict(arguments)}
    return {**({"id": call["id"]} if call.get("id") else {}), "type": "function", "function": named}


def learned(message: Message) -> bool:
    """Tell whether a message is an answer that is to be learned."""
    return message["role"] == "assistant" and message.get("weight") != 0


def asked(messages: Sequence[Message]) -> int:
    """How many messages of a conversation there are up to the last of the user; what follows is the last answer."""
    return max(place for place, message in enumerate(messages) if message["role"] == "user") + 1


def equipped(messages: list[Message], tools: Any) -> list[Message]:
    """Give a conversation the definitions of its tools, which lie with its first message."""
    return [messages[0] | {"tools": tools}, *messages[1:]] if tools and messages else messages


def tools_of(messages: Sequence[Message]) -> Any:
    """The definitions of the tools of a conversation, or None."""
    return next((message["tools"] for message in messages if message.get("tools")), None)


def validated(messages: list[Message]) -> list[Message]:
    """Return a whole conversation; RowProblem when its roles come in an order that no model is asked in."""
    spoken = [message["role"] for message in messages]
    if "system" in spoken[1:]:
        raise RowProblem("has a system message that is not the first", "move it to the front")
    if [speaker for speaker in spoken if speaker != "system"][:1] != ["user"]:
        raise RowProblem("does not begin with a user message", "add it or drop the row")
    if "assistant" not in spoken:
        raise RowProblem("would train nothing: no message is the assistant's", "add its answer or drop the row")
    if not any(learned(message) for message in messages):
        raise RowProblem(
            "would train nothing: every answer is marked as not learned", "mark one as learned or drop the row"
        )
    for number, (before, speaker) in enumerate(pairwise(spoken), start=1):
        if speaker == "tool" and before not in ("assistant", "tool"):
            raise RowProblem(
                f"message {number} (tool) does not follow the assistant", "put it after the call it answers"
            )
    return messages


def split_pair(
    prompt: list[Message], chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Split a preference pair into what was asked and the two answers.

    Parameters
    ----------
    prompt : list of dict
        What was asked; may be empty where the others are whole conversations.
    chosen, rejected : list of dict
        The answers alone, or the conversations: then what both begin with is the prompt.

    Returns
    -------
    tuple of three lists of dict
        Prompt, chosen and rejected; each answer begins with the assistant's message.

    Raises
    ------
    RowProblem
        When there is no prompt, the answers are equal, or the conversations part before an answer.
    """
    if chosen == rejected:
        raise RowProblem("chosen and rejected are the same", "drop the row")
    if any(message["role"] != "assistant" for message in chosen[:1]):
        shared = [
            ours for ours, theirs in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))
        ]
        asked = [message for message in prompt if message["role"] != "system"]
        if any(message not in shared for message in asked):
            raise RowProblem("the prompt is not how chosen and rejected begin", "fix or drop the row")
        chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
        system = [message for message in prompt if message["role"] == "system"]
        prompt = shared if shared and shared[0]["role"] == "system" else [*system, *shared]
    elif not prompt:
        raise RowProblem("has no prompt: chosen and rejected are answers alone", "name its column: columns={prompt: …}")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[0]["role"] != "assistant":
            reason = f"{name} has no answer of its own to the prompt that both share"
            raise RowProblem(reason, "let both begin alike and differ in the answer, or drop the row")
        validated([*prompt, *answer])
    return prompt, chosen, rejected
