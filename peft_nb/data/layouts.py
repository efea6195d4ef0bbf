"""Layouts of training data: which columns hold what, and what a row becomes: a conversation, a text, labels or pairs.

A layout is one entry of `LAYOUTS`, ours or one that a package registers; nothing else has to change when one is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal

from peft_nb.data import RowProblem, parse, turns
from peft_nb.data.audio.clip import Clip, at_rate, clip, is_clip
from peft_nb.data.conversations import OPENAI, SHAREGPT, Message, parse_cell, style, text, unread
from peft_nb.data.conversations import read as read_messages
from peft_nb.data.images.picture import is_picture, picture
from peft_nb.spec.names import register_name

Kind = Literal["chat", "text", "labelled", "preference", "rated", "prompt", "image", "captioned", "audio"]


@dataclass(frozen=True)
class Role:
    """One thing a layout needs, the column names that usually hold it, and how a cell is read.

    ``looks`` tells a cell of this role from one of another layout; it is false of no cell that ``parse`` can read.
    A role that ``tells`` nothing may be in any layout, and none is recognised by it. Columns named as ``lists`` says
    hold several values, also where they are written into a text cell, as in csv files. What is ``written`` is a text.
    """

    name: str
    others: tuple[str, ...] = ()
    required: bool = True
    parse: Callable[[Any], Any] = text
    looks: Callable[[Any], bool] = lambda cell: True
    tells: bool = True
    lists: tuple[str, ...] = ()
    written: bool = True

    def read(self, cell: Any, column: str) -> Any:
        """Parse a cell of the column that plays the role."""
        if isinstance(cell, str) and column.strip().casefold() in self.lists:
            cell = parse.held(cell)
        return self.parse(cell)


@dataclass(frozen=True)
class LayoutType:
    """One kind of layout; ``write`` turns the parsed cells, by role, into messages, a text, pairs or a rated answer.

    ``looks`` tells a row, as the cells of its filled columns by role, from one of another layout. One that ``asks`` is
    taken only where ``format`` names it; ``conversation`` is the layout behind that of rated answers.
    """

    name: str
    roles: tuple[Role, ...]
    write: Callable[[dict[str, Any]], Any]
    kind: Kind = "chat"
    looks: Callable[[dict[str, Any]], bool] = lambda cells: True
    asks: bool = False
    conversation: str = ""

    def readings(self, present: Sequence[str], given: Mapping[str, str]) -> list[dict[str, str]]:
        """Every way to find the roles among the columns `present`, as role to column."""
        options: list[Sequence[str | None]] = [
            columns_for(role, present, given) or ([] if role.required else [None]) for role in self.roles
        ]
        found: list[dict[str, str]] = []
        for choice in product(*options):
            reading: dict[str, str] = {}
            for role, column in zip(self.roles, choice, strict=True):
                if column is not None and (role.required or column not in reading.values()):
                    reading[role.name] = column
            if reading not in found:
                found.append(reading)
        return found

    def holds(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
        """Tell whether a row has a cell of the right look for every required role."""
        cells = {role: cell for role, column in columns.items() if filled(cell := row.get(column))}
        needed = [role for role in self.roles if role.required]
        able = all(role.name in cells and role.looks(cells[role.name]) for role in needed)
        return able and self.looks(cells)


def filled(cell: Any) -> bool:
    """Tell whether a cell holds anything; white space is nothing."""
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))


def columns_for(role: Role, present: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Columns that may play a role: the given one, else those of its very name, else those of its other names."""
    if role.name in given:
        return [given[role.name]]
    free = {column: column.strip().casefold() for column in present if column not in given.values()}
    own = [column for column, name in free.items() if name == role.name]
    return own or [column for column, name in free.items() if name in role.others]


def rated(entry: LayoutType, words: Mapping[str, bool] = parse.RATINGS) -> LayoutType:
    """The layout of conversations with a column that says whether their last answer is good.

    Parameters
    ----------
    entry : LayoutType
        How the conversations lie; of the kind "chat".
    words : mapping of str to bool
        What the column may say, as :func:`.parse.ratings` finds it.

    Returns
    -------
    LayoutType
        Of the kind "rated".
    """

    def write(cells: dict[str, Any]) -> tuple[list[Message], bool]:
        messages = entry.write(cells)
        last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
        return messages[: last + 1], cells["label"]

    roles = (*entry.roles, replace(RATING, parse=partial(parse.rating, words=words)))
    return LayoutType("rated", roles, write, "rated", asks=True, conversation=entry.name)


SYSTEM = Role("system", ("system_prompt",), required=False, tells=False)
TOOLS = Role("tools", ("functions",), required=False, parse=parse.tools, tells=False)
HISTORY = Role("history", ("chat_history",), required=False, parse=parse.history, tells=False)
CHOICES = Role("choices", ("options",), required=False, parse=parse.choices, tells=False)
ASKED = (CHOICES, HISTORY, TOOLS, SYSTEM)
BESIDE = (Role("context", required=False), Role("input", required=False), HISTORY, TOOLS, SYSTEM)
RATING = Role(
    "label",
    (
        *("kto_tag", "desirable", "is_desirable", "thumbs", "thumbs_up", "thumb", "rating", "feedback"),
        *("user_feedback", "human_feedback", "vote", "upvoted", "liked", "like", "good", "is_good", "helpful"),
        *("is_helpful", "correct", "is_correct", "accepted", "is_accepted", "approved", "preferred", "is_preferred"),
        *("is_safe", "score", "reward", "verdict", "judgement", "judgment", "quality"),
    ),
    parse=parse.rating,
)
PROMPT = ("question", "query", "instruction", "input", "conversations", "conversation", "messages")
LABEL = Role(
    "label",
    ("labels", "class", "category", "target", "sentiment", "intent"),
    parse=parse.labels,
    looks=parse.is_label,
)
IMAGE = (
    *("images", "img", "picture", "pictures", "photo", "photos", "pixel_values", "path", "file", "filename"),
    *("file_name", "filepath", "file_path", "image_path", "image_file", "img_path"),
)
AUDIO = (
    *("audios", "speech", "sound", "clip", "recording", "wav", "waveform", "path", "file", "filename", "file_name"),
    *("filepath", "file_path", "audio_path", "audio_file", "audio_filepath"),
)
SPOKEN = ("transcript", "transcription", "transcripts", "sentence", "normalized_text", "raw_text", "utterance")
LABELLED = ("sentence", "review", "content", "comment", "tweet", "utterance", "message", "body", "description")

LAYOUTS: dict[str, LayoutType] = {}
"""All layouts by name."""


def register(layout: LayoutType) -> None:
    """Add a layout to `LAYOUTS`.

    Parameters
    ----------
    layout : LayoutType
        Its name is what users write as ``format``.

    Raises
    ------
    ValueError
        When another layout has this name.
    """
    if LAYOUTS.setdefault(layout.name, layout) is not layout:
        raise ValueError(f"there is a layout {layout.name!r} already; choose another name")
    register_name("format", layout.name)


register_name("format", "auto")
for _layout in (
    LayoutType(
        "prompt_completion",
        (
            Role("prompt", ("query", "input", "source", "document", "article", "dialogue"), parse=parse.said("user")),
            Role(
                "completion",
                ("response", "reply", "output", "answer", "target", "summary", "highlights"),
                parse=parse.said("assistant"),
            ),
            *ASKED,
        ),
        turns.completed,
    ),
    LayoutType(
        "instruction",
        (
            Role("instruction", ("instructions",)),
            Role("input", ("context",), required=False),
            Role("output", ("response", "reply", "answer", "completion")),
            *ASKED,
        ),
        lambda cells: turns.answered(cells, "instruction", "input", answer="output"),
    ),
    LayoutType(
        "question_answer",
        (
            Role("question", ("q", "ask")),
            Role("context", ("passage", "document"), required=False),
            Role(
                "answer",
                ("a", "answers", "answerkey", "answer_key", "response", "reply", "output"),
                parse=parse.answer,
                lists=("answers",),
            ),
            *ASKED,
        ),
        lambda cells: turns.answered(cells, "context", "question", answer="answer"),
    ),
    LayoutType(
        "messages",
        (
            Role(
                "messages",
                ("chat", "conversation", "conversations"),
                parse=lambda cell: read_messages(cell, OPENAI),
                looks=lambda cell: style(cell) != SHAREGPT and not isinstance(parse_cell(cell), str),
            ),
            TOOLS,
            SYSTEM,
        ),
        turns.conversation,
    ),
    LayoutType(
        "sharegpt",
        (
            Role(
                "messages",
                ("conversations", "conversation", "chat"),
                parse=lambda cell: read_messages(cell, SHAREGPT),
                looks=lambda cell: style(cell) == SHAREGPT,
            ),
            TOOLS,
            SYSTEM,
        ),
        turns.conversation,
    ),
    LayoutType("text", (Role("text", ("document",)),), lambda cells: cells["text"], "text"),
    LayoutType(
        "text_label",
        (
            Role("text", ("document", *LABELLED)),
            LABEL,
        ),
        lambda cells: cells["text"],
        "labelled",
    ),
    LayoutType(
        "image_label",
        (Role("image", IMAGE, parse=picture, looks=is_picture, written=False), LABEL),
        lambda cells: cells["image"],
        "image",
    ),
    LayoutType(
        "audio_text",
        (
            Role("audio", AUDIO, parse=clip, looks=is_clip, written=False),
            Role("text", SPOKEN),
            Role("sampling_rate", ("sample_rate", "sr"), False, parse=lambda cell: cell, tells=False, written=False),
            Role("language", ("lang", "locale"), False, tells=False, written=False),
        ),
        lambda cells: at_rate(cells["audio"], cells.get("sampling_rate")),
        "audio",
    ),
    LayoutType(
        "image_text",
        (
            Role("image", IMAGE, parse=picture, looks=is_picture, written=False),
            Role("text", ("caption", "captions", "image_caption")),
        ),
        lambda cells: cells["image"],
        "captioned",
    ),
    LayoutType(
        "image",
        (Role("image", IMAGE, parse=picture, looks=is_picture, written=False),),
        lambda cells: cells["image"],
        "captioned",
        asks=True,  # or taken where nothing else is known
    ),
    LayoutType(
        "preference",
        (
            Role("prompt", PROMPT, required=False, parse=parse.asked),
            Role(
                "chosen",
                (
                    *("chosen_messages", "chosen_response", "chosen_answer", "chosen_completion", "response_chosen"),
                    *("preferred", "preferred_response", "preferred_output", "preferred_answer", "better", "winner"),
                ),
                parse=parse.said("assistant"),
            ),
            Role(
                "rejected",
                (
                    *("rejected_messages", "rejected_response", "rejected_answer", "rejected_completion"),
                    *("response_rejected", "dispreferred", "non_preferred", "non_preferred_response"),
                    *("non_preferred_output", "non_preferred_answer", "worse", "loser"),
                ),
                parse=parse.said("assistant"),
            ),
            *BESIDE,
        ),
        turns.pair,
        "preference",
    ),
    *(
        LayoutType(
            name,
            (
                Role("prompt", PROMPT, parse=parse.asked),
                Role(
                    "responses",
                    ("completions", "answers", "candidates", "outputs", "generations"),
                    parse=parse.answers,
                    looks=lambda cell: isinstance(parse.held(cell), list | tuple),
                ),
                Role("scores", ("ratings", "rewards"), required=False, parse=parse.numbers),
                Role("ranks", ("rankings", "ranking"), required=False, parse=parse.numbers),
                *BESIDE,
            ),
            partial(turns.ranked, every=every),
            "preference",
            looks=parse.is_ranked,
            asks=every,
        )
        for name, every in (("ranked", False), ("ranked_all", True))
    ),
):
    register(_layout)
register(rated(LAYOUTS["prompt_completion"]))
register(
    LayoutType(
        "prompt",
        (
            Role("prompt", ("question", "query", "instruction", "problem", "messages"), parse=parse.asked),
            HISTORY,
            TOOLS,
            SYSTEM,
        ),
        turns.asked,
        "prompt",
        asks=True,  # or taken where no column holds answers
    )
)


@dataclass(frozen=True)
class Layout:
    """A layout found in a table.

    Attributes
    ----------
    entry : LayoutType
        How rows are read: of `LAYOUTS` or, where answers are rated, :func:`rated` of one of them.
    columns : dict of str to str
        Which column plays which role.
    why : str
        What was recognised and from what, as a sentence for the user.
    """

    entry: LayoutType
    columns: dict[str, str]
    why: str

    @property
    def name(self) -> str:
        """A key of `LAYOUTS`."""
        return self.entry.name

    @property
    def kind(self) -> Kind:
        """What rows become.

        "chat", "text", "labelled" and "image" (with labels), "captioned" (images, with texts or without), "audio",
        "preference", "rated" or "prompt".
        """
        return self.entry.kind

    @property
    def plain(self) -> bool:
        """True when rows are texts, with labels or without, images or clips, not conversations."""
        return self.kind in ("text", "labelled", "image", "captioned", "audio")

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """Turn a row into a conversation.

        Parameters
        ----------
        row : mapping
            A row of a table of the kind "chat", "preference", "rated" or "prompt".

        Returns
        -------
        list of dict
            Messages with ``role``, ``content`` and, where tools are called, ``tool_calls``; of pairs the prompt and
            the chosen answer of the first; of prompts no answer.

        Raises
        ------
        RowProblem
            When a cell is empty or of the wrong kind.
        """
        if self.kind == "preference":
            prompt, chosen, _ = self.pairs(row)[0]
            return [*prompt, *chosen]
        if self.kind == "rated":
            return self.rated(row)[0]
        messages: list[Message] = self.entry.write(self._cells(row))
        return messages

    def text(self, row: Mapping[str, Any]) -> str:
        """Turn a row of the kind "text" or "labelled" into its text, the counterpart of :meth:`messages`.

        Of the kinds "image" and "captioned" it is the :class:`peft_nb.data.images.picture.Picture`, of "audio" the
        :class:`peft_nb.data.audio.clip.Clip`.
        """
        written: str = self.entry.write(self._cells(row))
        return written

    def spoken(self, row: Mapping[str, Any]) -> tuple[Clip, str, str]:
        """Give the clip of a row of the kind "audio", what is said in it, and its language, empty if not told."""
        cells = self._cells(row)
        return self.entry.write(cells), cells["text"], cells.get("language", "")

    def labels(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Give the classes of a row of the kind "labelled": their names, or their numbers in decimal digits."""
        labels: tuple[str, ...] = self._cells(row)["label"]
        return labels

    def caption(self, row: Mapping[str, Any]) -> str:
        """Give the text of a row of the kind "captioned"; empty where no column holds one."""
        return str(self._cells(row).get("text", "")) if "text" in self.columns else ""

    def pairs(self, row: Mapping[str, Any]) -> list[turns.Pair]:
        """Turn a row of the kind "preference" into pairs: of each the prompt, the chosen answer and the rejected one.

        Parameters
        ----------
        row : mapping
            A row.

        Returns
        -------
        list of tuple of three lists of dict
            At least one; several where a row ranks its answers and ``format`` is ``ranked_all``.

        Raises
        ------
        RowProblem
            When a cell is empty or of the wrong kind, or no answer is better than another.
        """
        pairs: list[turns.Pair] = self.entry.write(self._cells(row))
        return pairs

    def scores(self, row: Mapping[str, Any]) -> list[float]:
        """Give the scores of a row's answers, the highest first; none where its layout ranks no answers."""
        return [score for _, score in turns.scored(self._cells(row))] if "responses" in self.columns else []

    def rated(self, row: Mapping[str, Any]) -> tuple[list[Message], bool]:
        """Turn a row of the kind "rated" into the conversation that ends in its answer, and whether that is good."""
        rated: tuple[list[Message], bool] = self.entry.write(self._cells(row))
        return rated

    def alone(self, row: Mapping[str, Any]) -> str:
        """Say how answers are trained on as they are: the chosen ones of pairs, all that are rated, those of a column.

        Parameters
        ----------
        row : mapping
            A row of the kind "preference", "rated" or "prompt", such as the first: it shows whether the cells of
            pairs are answers or whole conversations.

        Returns
        -------
        str
            The settings, for a message; empty where a table of ranked answers has no column of chosen ones.
        """
        if self.kind == "rated":
            columns = {role: column for role, column in self.columns.items() if role != "label"}
            return f"to train on all answers alike, set format={self.entry.conversation!r}, columns={columns}"
        if self.kind == "prompt":
            others = [column for column in row if column not in self.columns.values()]
            columns = {"prompt": self.columns["prompt"], "completion": (others or ["…"])[0]}
            return f"say which column holds the answers, such as format='prompt_completion', columns={columns}"
        if "chosen" not in self.columns:
            return ""
        chosen = row.get(self.columns["chosen"])
        keys = style(chosen)
        if keys and [message["role"] for message in read_messages(chosen, keys)][:1] != ["assistant"]:
            name, columns = ("messages" if keys == OPENAI else "sharegpt"), {"messages": self.columns["chosen"]}
        else:
            columns = {role: self.columns[role] for role in ("prompt", "system") if role in self.columns}
            name, columns = "prompt_completion", {**columns, "completion": self.columns["chosen"]}
        return f"to train on the chosen answers alone, set format={name!r}, columns={columns}"

    def options(self, row: Mapping[str, Any]) -> list[str]:
        """Give what could be answered where a row has choices: their letters or texts, whichever its answer is."""
        choices = self._cells(row).get("choices", {}) if "choices" in self.columns else {}
        if len(choices) < 2:
            return []
        said = self.messages(row)[-1]["content"].strip()
        forms = (list(map(str.strip, one)) for one in (choices, choices.values()))
        return next((form for form in forms if said in form), [])

    def by_number(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row's answer is the number of one of its choices, and is learned as the letter of that."""
        column = self.columns.get("answer", self.columns.get("completion", self.columns.get("output", "")))
        given = row.get(column) if "choices" in self.columns else None
        return given is not None and str(given).strip().isdecimal() and self.messages(row)[-1]["content"] != str(given)

    @property
    def written(self) -> dict[str, str]:
        """Which columns hold texts, by role."""
        texts = {role.name for role in self.entry.roles if role.written}
        return {role: column for role, column in self.columns.items() if role in texts}

    def unread(self, row: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Give the keys of a row's messages that nothing reads, with what they hold."""
        return [pair for column in self.columns.values() for pair in unread(row.get(column))]

    def _cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        cells = {}
        for role in self.entry.roles:
            column = self.columns.get(role.name)
            cell = None if column is None else row.get(column)
            if column is not None and filled(cell):
                try:
                    cells[role.name] = role.read(cell, column)
                except RowProblem as problem:
                    raise RowProblem(f"column {column!r} {problem.reason}", problem.fix) from None
            elif role.required:
                raise RowProblem(f"column {self.columns[role.name]!r} is empty")
        return cells
