"""Why a run said what it said: which parts of the prompt made the answer, and which training rows did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy
import pandas

from peft_nb.data.conversations import Message
from peft_nb.data.examples import Example, Examples
from peft_nb.data.kept import Sides, kept
from peft_nb.data.prompts import Prompt
from peft_nb.data.rendering import Renderer
from peft_nb.errors import DataError, RunError, nearest
from peft_nb.events import Progress, silent
from peft_nb.models.quiet import quiet
from peft_nb.serving.route import prompts_of
from peft_nb.system.display import Paged

if TYPE_CHECKING:
    from PIL.Image import Image

    from peft_nb.evaluation.attribution import By, Cells, Mask, Words
    from peft_nb.runs.run import Run

TOKENS = 64  # of an answer, at most
SHOWN = 5  # classes that are explained, the likeliest first
FOLLOWED = 1_000  # training rows whose gradients are computed
SIDES = ("adapter", "base")
LONG = "the text is long: stretches of words are left out together"
TOLD = "the gradients are those of the adapter as it is now, after the last step"


@dataclass(frozen=True)
class Row:
    """A training row and its influence on the answer.

    Attributes
    ----------
    number : int
        Which row of the data it is, from 0.
    prompt, answer : str
        What it asks and what it answers, or its label.
    similarity : float
        Cosine of its gradient with that of the answer, -1 to 1: above 0 where learning it makes the answer likelier.
    influence : float
        The product of both gradients (TracIn): nats by which a small step on it lowers the loss, per learning rate.
    """

    number: int
    prompt: str
    answer: str
    similarity: float
    influence: float


@dataclass(frozen=True, eq=False)
class Explanation(Paged):
    """What made an answer.

    Attributes
    ----------
    run : str
        Whose answer it is.
    prompt, answer : str
        What was asked and what is explained: a text, or a label.
    base_answer : str or None
        What the base model answers; None for a classifier.
    parts : tuple of str
        Words of the prompt, or cells of the image.
    sides : tuple of str
        What each row of `weights` is about: ``adapter`` and ``base``, or classes, that which is explained first.
    weights : numpy.ndarray
        Shape ``(sides, parts)``: by how much each part raises the log-probability of the answer, in nats.
    ends : numpy.ndarray
        Shape ``(2, sides)``: the log-probabilities with all parts and with none.
    by : {"ablation", "shapley"}
        How.
    rows : tuple of Row
        Training rows, those first whose gradients are most similar to the answer's.
    cells : Cells or None
        The image, where one is explained.
    notes : tuple of str
        What limits all this.
    """

    run: str
    prompt: str
    answer: str
    base_answer: str | None
    parts: tuple[str, ...]
    sides: tuple[str, ...]
    weights: numpy.ndarray
    ends: numpy.ndarray
    by: str
    rows: tuple[Row, ...] = ()
    cells: Cells | None = None
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> pandas.DataFrame:
        """One row a part, in order: ``part``, and a column of weights for each side, in nats."""
        found = pandas.DataFrame(self.weights.T, columns=list(self.sides))
        found.insert(0, "part", [one.strip() for one in self.parts], allow_duplicates=True)
        return found

    @property
    def training_rows(self) -> pandas.DataFrame:
        """One row a training row: ``row``, ``prompt``, ``answer``, ``similarity`` (the most first), ``influence``."""
        rows = [(one.number, one.prompt, one.answer, one.similarity, one.influence) for one in self.rows]
        return pandas.DataFrame(rows, columns=["row", "prompt", "answer", "similarity", "influence"])

    @property
    def strongest(self) -> list[int]:
        """Places of the parts, those first that weigh most for the answer or against it."""
        order: list[int] = numpy.argsort(-numpy.abs(self.weights[0]), kind="stable").tolist()
        return order

    def __repr__(self) -> str:
        lines = [f"{self.run} answers: {self.answer}"]
        for place in self.strongest[:5]:
            told = ", ".join(f"{side} {own[place]:+.2f}" for side, own in zip(self.sides, self.weights, strict=True))
            lines.append(f"  {self.parts[place].strip()}: {told}")
        if self.rows:
            lines.append("training rows whose gradients are most similar to the answer's (cosine, -1 to 1):")
        lines += [f"  row {row.number}: {row.prompt} → {row.answer} ({row.similarity:+.2f})" for row in self.rows[:5]]
        return "\n".join([*lines, *(f"note: {one}" for one in self.notes)])


def explain(
    run: Run,
    prompt: Any,
    *,
    answer: str | None = None,
    by: By = "ablation",
    rows: int = 0,
    max_new_tokens: int = TOKENS,
    progress: Progress = silent,
) -> Explanation:
    """Explain an answer of a run; parameters and errors as of :meth:`.Run.explain`."""
    if by not in ("ablation", "shapley"):
        raise DataError(
            f"by: {by} is no way to explain; write ablation or shapley{nearest(by, ['ablation', 'shapley'])}"
        )
    task = run.adapter.task
    if task.base in ("speech", "diffusion"):
        raise RunError(f"run {run.id} {task.instead}; answers to texts and labels alone are explained so far")
    sides = _followed(run) if rows else None
    with run.adapter.using, quiet():
        run.adapter.open(progress)
        make = _written if task.generates else _labelled
        found, example = make(run, prompt, answer, by, max_new_tokens, progress)
        if sides is None:
            return found
        strongest, notes = _influential(run, sides.train, example, rows, progress)
    return Explanation(**{**vars(found), "rows": strongest, "notes": (*found.notes, *notes)})


def _followed(run: Run) -> Sides:
    """The rows of a run whose gradients can be compared with those of an answer."""
    if run.adapter.task.unit not in ("token", "text", "image"):
        raise RunError(f"run {run.id} learned from judged answers, whose rows are not followed; leave rows out")
    if (sides := kept(run.folder)) is None:
        raise RunError(
            f"the rows that run {run.id} learned from have left the store; train it again, or leave rows out"
        )
    return sides


def _written(
    run: Run, prompt: Prompt, answer: str | None, by: By, most: int, progress: Progress
) -> tuple[Explanation, Example]:
    """Explain an answer that was written: adapter and base about the same words."""
    from peft_nb.evaluation import attribution
    from peft_nb.evaluation.measure import predictions
    from peft_nb.training.objectives import Padded

    asked = run.adapter.retrieve([prompt])[0][0]
    text, write = _writer(run, asked)
    words = attribution.Words(text)
    if not words.names:
        raise DataError("the prompt has no words to explain")
    progress(0, "answering")
    how: dict[str, Any] = {"documents": False, "max_new_tokens": most}
    said = run.generate([asked], **how)[0] if answer is None else answer
    bare = run.generate([asked], adapter=False, **how)[0]
    if not said.strip():
        raise DataError("the answer is empty, and nothing made it; give answer= to explain another one")
    model, objective = run.model, Padded(run.tokenizer.pad_token_id or 0)

    def score(masks: Sequence[Mask]) -> numpy.ndarray:
        return -predictions(model, objective, [write(words.keep(mask), said) for mask in masks]).losses[:, None]

    found = []
    for place, name in enumerate(SIDES):
        with nullcontext() if name == "adapter" else model.disable_adapter():
            told = partial(_told, progress, f"leaving words of the prompt out: {name}", place / 2, 1 / 2)
            found.append(attribution.attribute(score, len(words.names), by=by, heed=told))
    weights, ends = (numpy.concatenate(one, axis) for axis, one in enumerate(zip(*found, strict=True)))
    notes = (LONG,) if words.grouped else ()
    made = Explanation(*(run.version or run.id, text, said, bare, words.names, SIDES, weights, ends, by), notes=notes)
    return made, write(words.keep((True,) * len(words.names)), said)


def _told(progress: Progress, what: str, begun: float, part: float, share: float) -> None:
    progress(begun + part * share, what)


def _writer(run: Run, prompt: Prompt) -> tuple[str, Callable[[str, str], Example]]:
    """What of a prompt is explained, and what writes that text with an answer as in training."""
    from peft_nb.evaluation import options

    renderer = Renderer(run.tokenizer)
    if not run.facts.chat:
        if not isinstance(prompt, str):
            raise DataError("the run learned from plain texts; give the prompt as one text")

        def go_on(text: str, answer: str) -> Example:
            begun = renderer.texts([text], generation=True)[0] or [renderer.end]
            rest = run.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
            return _supervised(begun, rest)

        return prompt, go_on
    turns: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
    if run.spec.system and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": run.spec.system})
    if turns[-1]["role"] != "user":
        raise DataError(
            "the prompt does not end with a message of the user; leave the answer out, or pass it as answer"
        )

    def reply(text: str, answer: str) -> Example:
        return options.write(renderer, [*turns[:-1], {**turns[-1], "content": text}], [answer])[0]

    return str(turns[-1]["content"]), reply


def _supervised(prompt: Sequence[int], answer: Sequence[int]) -> Example:
    from array import array

    return Example(array("i", [*prompt, *answer]), bytes(len(prompt)) + b"\x01" * len(answer))


def _labelled(
    run: Run, given: Any, label: str | None, by: By, most: int, progress: Progress
) -> tuple[Explanation, Example]:
    """Explain a label: the chosen class, and the likeliest others."""
    from peft_nb.evaluation import attribution

    task: Any = run.adapter.task
    facts = run.facts.task
    names: Sequence[str] = facts.get("classes", ())
    if not names:
        raise RunError(f"run {run.id} {task.instead}, which is not explained so far")
    if label is not None and label not in names:
        raise DataError(f"answer: the run knows no class {label!r}{nearest(label, names)}")
    asked = task.asked(given)
    if len(asked) != 1:
        raise DataError(f"one input is explained at a time, not {len(asked)}")
    parts = _parts(run, asked[0])

    def score(masks: Sequence[Mask]) -> numpy.ndarray:
        found = task.outputs(run.model, run.tokenizer, [parts.keep(mask) for mask in masks], facts)
        logs = found.double().sigmoid().log() if facts["multi_label"] else found.double().log_softmax(-1)
        return logs.numpy()

    whole = score([(True,) * len(parts.names)])[0]
    order = numpy.argsort(-whole, kind="stable").tolist()
    first = order[0] if label is None else list(names).index(label)
    chosen = [first, *(place for place in order if place != first)][:SHOWN]
    weights, ends = attribution.attribute(
        lambda masks: score(masks)[:, chosen],
        len(parts.names),
        by=by,
        heed=lambda share: progress(share, "leaving parts out"),
    )
    cells = parts if isinstance(parts, attribution.Cells) else None
    notes = [f"the {SHOWN} likeliest of {len(names)} classes are explained"] if len(names) > SHOWN else []
    if isinstance(parts, attribution.Words) and parts.grouped:
        notes.append(LONG)
    shown = "an image" if cells else "".join(parts.names)
    made = Explanation(
        *(run.version or run.id, shown, names[first], None, parts.names, tuple(names[place] for place in chosen)),
        *(weights, ends, by),
        cells=cells,
        notes=tuple(notes),
    )
    return made, _learned(run, asked[0], first)


def _parts(run: Run, given: Any) -> Words | Cells:
    from peft_nb.evaluation import attribution

    if run.adapter.task.base == "vision":
        return attribution.Cells(_opened(given))
    words = attribution.Words(given)
    if not words.names:
        raise DataError("the text has no words to explain")
    return words


def _opened(given: Any) -> Image:
    from peft_nb.data import RowProblem
    from peft_nb.data.images.picture import picture

    try:
        return picture(given).open()
    except RowProblem as problem:
        raise DataError(f"the image {problem.reason}; {problem.fix}") from None


def _learned(run: Run, given: Any, label: int) -> Example:
    """An input with a label as an example that could be learned."""
    from dataclasses import replace

    from peft_nb.data.rendering import tokens

    task, facts = run.adapter.task, run.facts.task
    if task.base == "vision":
        (found,) = task.reference(run.model, run.tokenizer, [given], run.spec, facts, run.facts.chat)
        return replace(found, labels=(label,))
    return Example.whole(tokens(run.tokenizer, [given], facts["max_tokens"])[0], (label,))


def _influential(
    run: Run, train: Examples, answer: Example, count: int, progress: Progress
) -> tuple[tuple[Row, ...], list[str]]:
    """The training rows of most influence on an answer, and what limits that."""
    from peft_nb.evaluation import influence

    places, notes = _nearest(train, answer), [TOLD]
    if len(places) < len(train):
        notes.append(f"{len(places):,} of {len(train):,} rows were followed, those that share most tokens with it")
    chosen = train.take(places)
    model = run.model
    with influence.trainable(model) as parameters:
        objective = run.adapter.objective(chosen)
        heed = partial(_told, progress, f"comparing the gradients of {len(places):,} rows", 0.0, 1.0)
        found = influence.tracin(model, objective, parameters, chosen, answer, heed)
    order = numpy.argsort(-found.cosines, kind="stable")[:count].tolist()
    best = chosen.take(order)
    told = zip(best.rows.tolist(), _said(run, best), order, strict=True)
    return tuple(
        Row(number, *said, float(found.cosines[place]), float(found.dots[place])) for number, said, place in told
    ), notes


def _nearest(train: Examples, answer: Example) -> list[int]:
    """Places of the rows that are followed: all, or those whose rare tokens the answer and its prompt have too."""
    if len(train) <= FOLLOWED:
        return list(range(len(train)))
    if not len(answer.ids):
        return sorted(numpy.random.default_rng(0).choice(len(train), FOLLOWED, replace=False).tolist())
    wanted, sets = {*answer.ids}, [{*one.ids} for one in train]
    seen = Counter(token for own in sets for token in own & wanted)
    shared = numpy.array([sum(1 / seen[token] for token in own & wanted) for own in sets])
    return sorted(numpy.argsort(-shared, kind="stable")[:FOLLOWED].tolist())


def _said(run: Run, rows: Examples) -> list[tuple[str, str]]:
    """What rows ask and what they answer, as they were encoded."""
    names = run.facts.task.get("classes", ())
    if names and run.adapter.task.base == "vision":
        prompts = ["(an image)"] * len(rows)
    elif names:
        prompts = [run.tokenizer.decode(list(one.ids), skip_special_tokens=True) for one in rows]
    else:
        prompts = prompts_of(rows, run.tokenizer, run.spec.system, run.facts.chat, len(rows))
    learned = [[id for id, mark in zip(one.ids, one.supervised, strict=True) if mark] for one in rows]
    answers = (
        [run.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in learned]
        if not names
        else [", ".join(names[number] for number in one.labels) for one in rows]
    )
    return list(zip(prompts, answers, strict=True))
