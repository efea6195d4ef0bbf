"""Conversations and texts as a model expects them: written by its chat template, and turned into token ids.

`render` writes for training and for generation alike, so that a model is asked exactly as it was taught.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

from peft_nb.data import RowProblem
from peft_nb.data.conversations import Message, learned, tools_of
from peft_nb.errors import ModelError

# For models without a template of their own. No space ends the prompt: in most vocabularies an answer's first
# word is one token with the space before it.
DEFAULT_TEMPLATE = (
    "{% if tools %}Tools: {{ tools | tojson }}\n\n{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}{{ message.role | capitalize }}: {{ message.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
Written = tuple[str, list[int]]  # a conversation as text and as ids
Outcome = TypeVar("Outcome")
LossOn = Literal["assistant", "completion", "all"]
BATCH = 512  # texts tokenised at a time


class TemplateProblem(RowProblem):
    """What a model's chat template cannot write, or not so that it can be learned: no fault of the row.

    ``part`` is a key of :attr:`Renderer.unwritten`, or empty where it is the order of a conversation.
    """

    def __init__(self, reason: str, fix: str, part: str = "") -> None:
        self.part = part
        super().__init__(reason, fix)


class Rendered(NamedTuple):
    """What a model is given of a row: token ids, and the spans of them that are trained on."""

    ids: Sequence[int]
    spans: list[tuple[int, int]]


class Renderer:
    """Writes conversations as one tokenizer's model expects them.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        Where it has no chat template, `DEFAULT_TEMPLATE` is used.

    Attributes
    ----------
    end : int
        The token that ends an answer: generation has to stop at it.
    note : str
        Which template is used, for the user.

    Raises
    ------
    ModelError
        When the template cannot write an answer, or nothing can end one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.template = None if tokenizer.chat_template else DEFAULT_TEMPLATE
        self.note = "the model's own chat template"
        if self.template:
            self.note = "no chat template in the model: turns are written 'User: …' and 'Assistant: …'"
        self.bos = tokenizer.bos_token_id
        self.adds_bos = self.bos is not None and tokenizer("a")["input_ids"][:1] == [self.bos]
        self.suffix = ""
        one, two = self._ends(1), self._ends(2)
        if isinstance(one, RowProblem):
            raise ModelError(f"{one.reason}, though it is one question and one answer; use another template")
        end = next(iter(one), None)
        if end is None:
            if tokenizer.eos_token_id is None:
                raise ModelError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token")
            # The template leaves answers open, and a model taught so would never stop.
            self.suffix, end = tokenizer.eos_token, tokenizer.eos_token_id
            self.note += f", {self.suffix} ends every answer"
        self.end: int = end
        self.end_text: str = tokenizer.convert_ids_to_tokens(end)
        self.ends_each = bool(self.suffix) or isinstance(two, RowProblem) or two == one * 2

    def _ends(self, turns: int) -> list[int | None] | RowProblem:
        """Find the first special token that the template writes after each answer of a conversation."""
        answer = "zyzzyva"
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
        written = self._write([probe * turns])[0]
        if isinstance(written, RowProblem):
            return written
        added = self.tokenizer.added_tokens_decoder.items()
        special = {*self.tokenizer.all_special_ids, *(id for id, token in added if token.special)}
        tails = self._tokenize(written.split(answer)[1:])
        return [next((id for id in tail if id in special), None) for tail in tails]

    def _write(self, conversations: list[list[Message]], generation: bool = False) -> list[str | RowProblem]:
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": generation}
        if any(map(tools_of, conversations)):
            if len(conversations) > 1:  # a batch is written with the same tools
                return [text for one in conversations for text in self._write([one], generation)]
            options["tools"] = tools_of(conversations[0])
            conversations = [[{key: turn[key] for key in turn if key != "tools"} for turn in conversations[0]]]
        try:
            texts: list[str | RowProblem] = self.tokenizer.apply_chat_template(
                conversations, chat_template=self.template, **options
            )
            return texts
        except Exception as error:  # a template is somebody's program and can raise anything
            if len(conversations) > 1:
                return [text for one in conversations for text in self._write([one], generation)]
            reason = f"the model's chat template refuses it ({str(error) or type(error).__name__})"
            (turns,) = conversations
            if any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns):
                return [TemplateProblem(reason, "use a model whose template writes calls of tools", "tool_calls")]
            if turns[1:] and turns[0]["role"] == "system" and isinstance(self._write([turns[1:]], generation)[0], str):
                return [TemplateProblem(reason, "use a model whose template writes system prompts", "system")]
            return [RowProblem(reason, "change the roles or the order of its messages")]

    @cached_property
    def unwritten(self) -> dict[str, str]:
        """What the template leaves out or misreads of tools, of their calls and results, and of reasoning, in words."""
        call = {"id": "zyzzyva00", "type": "function", "function": {"name": "zyzzyva", "arguments": {}}}
        called: list[Message] = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "xylyl", "name": "zyzzyva", "tool_call_id": "zyzzyva00"},
            {"role": "assistant", "content": "b"},
        ]
        misread = [turn | {"role": "assistant"} if turn["role"] == "tool" else turn for turn in called]
        tool = {"type": "function", "function": {"name": "zyzzyva", "description": "c", "parameters": {}}}
        equipped: list[Message] = [{"role": "user", "content": "a", "tools": [tool]}, called[-1]]
        reasoned: list[Message] = [called[0], called[-1] | {"reasoning_content": "zyzzyva"}]
        probes = ([self.closed(turn) for turn in turns] for turns in (called, misread, equipped, reasoned))
        text, wrong, tools, reasoning = (self._write([turns])[0] for turns in probes)
        lost = {
            "tools": isinstance(tools, str) and "zyzzyva" not in tools,
            "reasoning_content": isinstance(reasoning, str) and "zyzzyva" not in reasoning,
        }
        if isinstance(text, str):  # some templates want more of a call than this one has: let them judge the row
            lost["tool_calls"] = "zyzzyva" not in text.partition(self.suffix or "xylyl")[0]
            lost["tool"] = "xylyl" not in text or text == wrong
        words = {"tools": "definitions of tools", "tool_calls": "calls of tools", "tool": "what tools return"}
        words["reasoning_content"] = "reasoning_content"
        return {part: f"the model's chat template does not write {words[part]}" for part in lost if lost[part]}

    def closed(self, message: Message) -> Message:
        """Add to an answer what the template leaves out: its end, and in the default template calls and reasoning.

        Parameters
        ----------
        message : dict
            Any message.

        Returns
        -------
        dict
            The same one, or a changed copy.
        """
        if message["role"] != "assistant":
            return message
        content, calls = message["content"], message.get("tool_calls")
        if calls and self.template:
            content = f"{content} {json.dumps(calls, ensure_ascii=False)}".lstrip()
        if (reasoning := message.get("reasoning_content")) and self.template:
            content = f"<think>\n{reasoning}\n</think>\n\n{content}"
        # Templates know it by either name.
        named = {"thinking": reasoning} if reasoning else {}
        return message | named | {"content": content + self.suffix}

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend and not backend.truncation and not backend.padding:  # half the time, and nothing is cut
            return [encoded.ids for encoded in backend.encode_batch_fast(texts, add_special_tokens=False)]
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        return self.tokenizer(texts, **options)["input_ids"] if texts else []

    def _begin(self, ids: list[int], as_tokenizer: bool) -> list[int]:
        """Have BOS at the beginning at most once, and once where the tokenizer adds it and is asked."""
        if ids[:1] != [self.bos]:
            return [self.bos, *ids] if as_tokenizer and self.adds_bos else ids
        return ids[next((place for place, id in enumerate(ids) if id != self.bos), len(ids)) - 1 :]

    def texts(self, texts: list[str], generation: bool = False) -> list[list[int]]:
        """Tokenise plain texts, with the end-of-sequence token unless the model is to go on."""
        eos = self.end if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id
        begun = [self._begin(ids, as_tokenizer=True) for ids in self._tokenize(texts)]
        return begun if generation else [ids if ids[-1:] == [eos] else [*ids, eos] for ids in begun]

    def chats(self, conversations: list[list[Message]], generation: bool = False) -> list[Written | RowProblem]:
        """Write conversations and tokenise them; with `generation`, up to where an answer is to begin."""
        conversations = [list(map(self.closed, messages)) for messages in conversations]
        texts = self._write(conversations, generation) if conversations else []
        encoded = iter(self._tokenize([text for text in texts if isinstance(text, str)]))
        # A model's own template says whether there is a BOS; with the default one its tokenizer does.
        return [
            (text, self._begin(next(encoded), as_tokenizer=bool(self.template))) if isinstance(text, str) else text
            for text in texts
        ]

    def rendered(
        self, conversations: list[list[Message]], loss_on: LossOn, prompts: Sequence[int] | None = None
    ) -> Iterator[Rendered | RowProblem]:
        """Tokenise conversations and find what to train on: answers with their ends, or everything.

        With `prompts`, the number of messages of each that are its prompt, no answer in those is trained on, and the
        prompt has the tokens that it has alone, whatever the answer begins with.
        """
        starts = prompts or [0] * len(conversations)
        answers = [
            [i for i, turn in enumerate(turns) if i >= start and learned(turn)]
            for turns, start in zip(conversations, starts, strict=True)
        ]
        first = {"assistant": 0, "completion": -1, "all": None}[loss_on]
        asked = [places[first:] if first is not None else [] for places in answers]
        prompted = [turns[:i] for turns, places in zip(conversations, asked, strict=True) for i in places]
        begun = iter(self.chats(prompted, generation=True))
        for number, (turns, whole) in enumerate(zip(conversations, self.chats(conversations), strict=True)):
            before = [next(begun) for _ in asked[number]]
            try:
                if prompts and not asked[number]:
                    raise RowProblem("the answer is marked as not learned", "mark it as learned or drop the row")
                self._refuse(turns, several=len(asked[number] or answers[number]) > 1)
                yield self._supervised(unwrap(whole), list(map(unwrap, before)), first is None, prompts is not None)
            except RowProblem as problem:
                yield problem
            except ValueError:  # no self.end among the ids
                yield TemplateProblem("the model's chat template does not end its answers", "use another template")

    def _refuse(self, turns: list[Message], several: bool) -> None:
        """Refuse what a template would write wrongly without a word."""
        for turn in turns:
            calls = turn.get("tool_calls") or ""
            held = {"tools": turn.get("tools"), "tool_calls": calls, "tool": turn["role"] == "tool"}
            for part in (part for part in held if held[part]):
                if part in self.unwritten:
                    fix = "use a model whose template does, or write them as text"
                    raise TemplateProblem(self.unwritten[part], fix, part)
            if turn["role"] == "assistant" and self.end_text in f"{turn['content']}{calls}":
                raise RowProblem(f"an answer contains {self.end_text}", "remove it: it is added for you")
        if several and not self.ends_each:
            raise TemplateProblem("the model's chat template does not end earlier answers", "give one answer a row")

    def _supervised(self, whole: Written, prompts: list[Written], everything: bool, apart: bool) -> Rendered:
        """Find the answers behind their prompts; `apart` parts the tokens of the first where they melt into one."""
        text, ids = whole
        spans: list[tuple[int, int]] = []
        if apart and text.startswith(prompts[0][0]):
            ids = self._apart(text, ids, *prompts[0])
        for prompt_text, prompt in prompts:
            if not text.startswith(prompt_text):
                reason = "the model's chat template writes the prompt differently once its answer is known"
                raise TemplateProblem(reason, "use another template, or loss_on='all'")
            if ids[: len(prompt)] != prompt:
                reason = "the first characters of an answer form one token with the end of its prompt"
                raise RowProblem(reason, "remove white space from the beginning of the answer")
            spans.append((len(prompt), ids.index(self.end, len(prompt)) + 1))
        # What a template writes after the last answer's end, such as a line break, is never generated.
        length = len(ids) - ids[::-1].index(self.end)
        return Rendered(ids[:length], [(1, length)] if everything else spans)

    def _apart(self, text: str, ids: list[int], prompt_text: str, prompt: list[int]) -> list[int]:
        """Tokenise what follows a prompt by itself, as a model writes it, if that says the same."""
        if ids[: len(prompt)] == prompt:
            return ids
        parted = [*prompt, *self._tokenize([text[len(prompt_text) :]])[0]]
        return parted if self.tokenizer.decode(parted) == self.tokenizer.decode(ids) else ids

    def render(
        self, conversation: Sequence[Message] | str, *, system: str | None = None, generation: bool = False
    ) -> list[int]:
        """Write one conversation or plain text; see :func:`render`, which makes a renderer for one alone."""
        if isinstance(conversation, str):
            return self.texts([conversation], generation)[0]
        messages = prepare(conversation, system, generation)
        if generation:
            return unwrap(self.chats([messages], generation)[0])[1]
        return list(unwrap(next(self.rendered([messages], loss_on="all"))).ids)


def unwrap(outcome: Outcome | RowProblem) -> Outcome:
    """Raise a problem, and pass on anything else."""
    if isinstance(outcome, RowProblem):
        raise outcome
    return outcome


def prepare(messages: Sequence[Message], system: str | None, generation: bool) -> list[Message]:
    """End with the last answer, or for generation before it; begin with `system` where there is no other."""
    kept = list(messages)
    while kept and (kept[-1]["role"] == "assistant") == generation:
        kept.pop()
    if not kept:
        raise RowProblem(f"has no {'question' if generation else 'answer'}", "add it")
    own = kept[0]["role"] == "system" or not system
    return kept if own else [{"role": "system", "content": str(system)}, *kept]


def render(
    tokenizer: Any,
    conversation: Sequence[Message] | str,
    *,
    system: str | None = None,
    generation: bool = False,
) -> list[int]:
    """Write one conversation or plain text as token ids, for training and for generation alike.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    conversation : sequence of dict, or str
        Messages with ``role`` and ``content``, or a plain text.
    system : str, optional
        System prompt for a conversation that has none of its own.
    generation : bool, default False
        Write the prompt alone, up to where the model is to speak; an answer at the end is left out.

    Returns
    -------
    list of int
        Token ids, with BOS once if the model has one; for training the last one is what ends the answer.

    Raises
    ------
    DataError
        When the model's chat template refuses the conversation.
    """
    return Renderer(tokenizer).render(conversation, system=system, generation=generation)


def tokens(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """Tokenise texts for a classifier, special tokens included, also where a text is cut.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    texts : sequence of str
        What to tokenise.
    max_length : int, optional
        Where to cut; by default nothing is.

    Returns
    -------
    list of list of int
        Token ids, at least one a text.
    """
    options: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    options |= {"truncation": max_length is not None, "max_length": max_length}
    found: list[list[int]] = []
    for start in range(0, len(texts), BATCH):
        found += tokenizer(list(texts[start : start + BATCH]), **options)["input_ids"]
    # A vocabulary may have nothing for a text; a model cannot be asked about no token at all.
    return [ids or [tokenizer.pad_token_id] for ids in found]
