"""Conversations and texts to token ids, and which of them are trained on.

`render` writes for training and for generation alike, so that a model is asked exactly as it was taught.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

from peft_nb.data import RowProblem, refusal
from peft_nb.data.formats import Layout, Message
from peft_nb.errors import ModelError

# For models without a template of their own. No space ends the prompt: in most vocabularies an answer's first
# word is one token with the space before it.
DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% else %}{{ message.role | capitalize }}: {{ message.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
BATCH = 512  # rows rendered and tokenised at a time

Written = tuple[str, list[int]]  # a conversation as text and as ids
Outcome = TypeVar("Outcome")
Lesson = tuple[list[int], list[tuple[int, int]]]  # ids, and the spans of them to train on


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded row: token ids, and for each of them 1 where it is a target of the loss, else 0."""

    ids: array[int]
    supervised: bytes


@dataclass(frozen=True)
class Report:
    """What encoding did; `truncated` holds the numbers of the rows that were cut at `max_length`."""

    rows: int
    tokens: int
    supervised_tokens: int
    truncated: tuple[int, ...]
    max_length: int
    template: str
    why: str

    def __str__(self) -> str:
        counts = f"{self.rows:,} rows, {self.tokens:,} tokens, {self.supervised_tokens:,} of them trained on"
        cut = f", {len(self.truncated):,} rows cut at {self.max_length:,} tokens" if self.truncated else ""
        return f"{self.why}; {self.template}; {counts}{cut}"


@dataclass(frozen=True)
class Encoded:
    """Encoded rows in the order of the data, and what was done to them."""

    examples: list[Example]
    report: Report


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
        try:
            texts: list[str | RowProblem] = self.tokenizer.apply_chat_template(
                conversations, chat_template=self.template, tokenize=False, add_generation_prompt=generation
            )
            return texts
        except Exception as error:  # a template is somebody's program and can raise anything
            if len(conversations) > 1:
                return [text for one in conversations for text in self._write([one], generation)]
            reason = f"the model's chat template refuses it ({str(error) or type(error).__name__})"
            return [RowProblem(reason, "change the roles or the order of its messages")]

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
        if self.suffix:
            closed = {"user": "", "system": "", "assistant": self.suffix}
            conversations = [
                [message | {"content": message["content"] + closed[message["role"]]} for message in messages]
                for messages in conversations
            ]
        texts = self._write(conversations, generation) if conversations else []
        encoded = iter(self._tokenize([text for text in texts if isinstance(text, str)]))
        # A model's own template says whether there is a BOS; with the default one its tokenizer does.
        return [
            (text, self._begin(next(encoded), as_tokenizer=bool(self.template))) if isinstance(text, str) else text
            for text in texts
        ]

    def lessons(self, conversations: list[list[Message]], everything: bool) -> Iterator[Lesson | RowProblem]:
        """Tokenise conversations and find what to train on: answers with their ends, or `everything`."""
        answers = [[i for i, turn in enumerate(turns) if turn["role"] == "assistant"] for turns in conversations]
        asked = () if everything else zip(conversations, answers, strict=True)
        prompts = iter(self.chats([turns[:i] for turns, places in asked for i in places], generation=True))
        for turns, places, whole in zip(conversations, answers, self.chats(conversations), strict=True):
            before = [] if everything else [next(prompts) for _ in places]
            try:
                if any(self.end_text in turns[place]["content"] for place in places):
                    raise RowProblem(f"an answer contains {self.end_text}", "remove it: it is added for you")
                if len(places) > 1 and not self.ends_each:
                    reason = "the model's chat template does not end earlier answers"
                    raise RowProblem(reason, "give one answer a row")
                yield self._lesson(_sound(whole), map(_sound, before))
            except RowProblem as problem:
                yield problem
            except ValueError:  # no self.end among the ids
                yield RowProblem("the model's chat template does not end its answers", "use another template")

    def _lesson(self, whole: Written, prompts: Iterator[Written]) -> Lesson:
        text, ids = whole
        spans: list[tuple[int, int]] = []
        for prompt_text, prompt in prompts:
            if not text.startswith(prompt_text):
                reason = "the model's chat template writes the prompt differently once its answer is known"
                raise RowProblem(reason, "use another template, or loss_on='all'")
            if ids[: len(prompt)] != prompt:
                reason = "the first characters of an answer form one token with the end of its prompt"
                raise RowProblem(reason, "remove white space from the beginning of the answer")
            spans.append((len(prompt), ids.index(self.end, len(prompt)) + 1))
        # What a template writes after the last answer's end, such as a line break, is never generated.
        length = len(ids) - ids[::-1].index(self.end)
        return ids[:length], spans or [(1, length)]

    def render(
        self, conversation: Sequence[Message] | str, *, system: str | None = None, generation: bool = False
    ) -> list[int]:
        """Write one conversation or plain text; see :func:`render`, which makes a renderer for one alone."""
        if isinstance(conversation, str):
            return self.texts([conversation], generation)[0]
        messages = _prepare(conversation, system, generation)
        if generation:
            return _sound(self.chats([messages], generation)[0])[1]
        return _sound(next(self.lessons([messages], everything=True)))[0]


def _sound(outcome: Outcome | RowProblem) -> Outcome:
    if isinstance(outcome, RowProblem):
        raise outcome
    return outcome


def _prepare(messages: Sequence[Message], system: str | None, generation: bool) -> list[Message]:
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


def encode(
    rows: Sequence[Mapping[str, Any]],
    layout: Layout,
    tokenizer: Any,
    *,
    max_length: int,
    loss_on: Literal["completion", "all"] = "completion",
    system: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    row_name: str = "row",
) -> Encoded:
    """Encode every row of a table for training.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    layout : Layout
        What its columns mean.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    max_length : int
        Tokens at which a longer row is cut.
    loss_on : {"completion", "all"}, default "completion"
        Train on the answers and their ends, or on everything but the first token, which nothing predicts.
        Plain texts are always trained on as a whole.
    system : str, optional
        System prompt for conversations that have none of their own.
    progress : callable, optional
        Called with the rows done and their total, about every `BATCH` rows.
    row_name : str, default "row"
        What errors call a row, such as ``held-out row``.

    Returns
    -------
    Encoded
        One example a row in the same order, each with at least one token to train on, and a report.

    Raises
    ------
    DataError
        When rows are empty, malformed or would train nothing: all of them counted, the first five named.
    """
    renderer = Renderer(tokenizer)
    examples, truncated, problems = [], [], {}
    for number, lesson in enumerate(_lessons(rows, layout, renderer, loss_on == "all", system)):
        if isinstance(lesson, RowProblem):
            problems[number] = lesson
        else:
            ids, spans = lesson
            mask = bytearray(len(ids))
            for start, stop in spans:
                mask[start:stop] = b"\x01" * (stop - start)
            if len(ids) > max_length:
                truncated.append(number)
            examples.append(Example(array("i", ids[:max_length]), bytes(mask[:max_length])))
            if not any(examples[-1].supervised):
                alone = f"its prompt alone is {spans[0][0]:,} tokens and max_length is {max_length:,}"
                mend = "raise max_length or shorten the prompt"
                problems[number] = RowProblem(f"would train nothing: {alone}", mend)
        if progress and ((number + 1) % BATCH == 0 or number + 1 == len(rows)):
            progress(number + 1, len(rows))
    if problems:
        raise refusal(problems, len(rows), row_name)
    tokens = sum(len(example.ids) for example in examples)
    supervised = sum(example.supervised.count(1) for example in examples)
    note = "plain texts, no template" if layout.plain else renderer.note
    return Encoded(examples, Report(len(examples), tokens, supervised, tuple(truncated), max_length, note, layout.why))


def _lessons(
    rows: Sequence[Mapping[str, Any]],
    layout: Layout,
    renderer: Renderer,
    everything: bool,
    system: str | None,
) -> Iterator[Lesson | RowProblem]:
    """Lessons in the order of the rows, a batch at a time, with the problem where a row has one."""

    def read(row: Mapping[str, Any]) -> Any:
        try:
            return layout.text(row) if layout.plain else _prepare(layout.messages(row), system, generation=False)
        except RowProblem as problem:
            return problem

    remaining = iter(rows)
    while batch := [read(row) for row in islice(remaining, BATCH)]:
        sound = [conversation for conversation in batch if not isinstance(conversation, RowProblem)]
        lessons: Iterator[Lesson | RowProblem]
        if layout.plain:
            lessons = ((ids, [(1, len(ids))]) for ids in renderer.texts(sound))
        else:
            lessons = renderer.lessons(sound, everything)
        yield from (one if isinstance(one, RowProblem) else next(lessons) for one in batch)


def split(n_rows: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Set rows aside for evaluation, the same ones on any machine.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    fraction : float
        Share to set aside, 0 to 1; above 0 at least one row, and at least one is left for training.
    seed : int
        Equal seeds choose equal rows.

    Returns
    -------
    tuple of list of int and list of int
        Ascending row numbers for training and for evaluation.
    """
    held = min(max(1, round(n_rows * fraction)), n_rows - 1) if fraction > 0 and n_rows > 1 else 0
    # random() alone is promised to be the same in every version of Python; shuffle() and sample() are not.
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(n_rows)]
    order = sorted(range(n_rows), key=keys.__getitem__)
    return sorted(order[held:]), sorted(order[:held])
