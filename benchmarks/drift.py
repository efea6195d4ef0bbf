"""Planted shifts: how often ``%peft watch`` sees them, and how often it sees one where there is none.

    python benchmarks/drift.py [--trials N] [--none N] [--rows N] [--seed N] [--prompts]

With ``--prompts`` the new rows have no answers, as those of a log, so that no loss is compared and no run is trained.

A run on `smollm2-135m` learns to name the intent of a bank's customers (24 classes, `intents.py`). Each trial draws 400
rows of the same source, 40 as its evaluation set, and some more, of which a share is shifted in one of eight ways, and
compares them by the tests of ``%peft watch``. AUC: of the smallest corrected p-value, trials with the shift against
trials without.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import intents
import numpy

SHARE = 0.4  # of the rows of a trial are shifted, where nothing else is said
STEPS = 120  # of training
LEARNED, EVALUATED = 400, 40  # rows that a trial compares with
TAUGHT = LEARNED + EVALUATED  # rows that the run is trained with and evaluated on
EACH = 140  # rows of a class: enough for some classes to be nine times as likely to the last row of a trial
Rows = list[dict[str, str]]

GERMAN = (
    "Meine Karte ist weg, was soll ich tun?",
    "Wann kommt die neue Karte?",
    "Die Überweisung an meine Schwester ist nicht angekommen.",
    "Warum wurde meine Zahlung abgelehnt?",
    "Ich habe meine PIN vergessen.",
    "Bitte schließen Sie mein Konto.",
    "Der Automat hat zu wenig Geld ausgezahlt.",
    "Welcher Wechselkurs gilt in Polen?",
    "Ich kann mich nicht anmelden.",
    "Diese Abbuchung kenne ich nicht.",
)
RUSSIAN = (
    "Моя карта потерялась, что делать?",
    "Когда придёт новая карта?",
    "Почему мой платёж отклонён?",
    "Я забыл свой пароль.",
    "Пожалуйста, закройте мой счёт.",
    "Банкомат выдал слишком мало денег.",
    "Не могу войти в приложение.",
    "Я не знаю этого списания.",
)
TOPICS = (
    "I want a mortgage for a flat {place}",
    "what does the loan for a car of {amount} cost me a month",
    "can my daughter get an account for children",
    "which funds do you recommend for {amount}",
    "I would like to insure my bike against theft",
    "how much pension will I get from you",
    "do you finance solar panels",
    "please change the interest of my savings",
)
RAMBLING = (
    " I have been a customer of this bank for more than twenty years and never had a complaint of any kind, so I hope "
    "that somebody reads this to its end and answers soon, because I have to leave for a journey next week."
)


def other_topic(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    """Something that no class is for."""
    words = {name: draw.choice(choices) for name, choices in intents.SLOTS.items()}
    return row | {"text": draw.choice(TOPICS).format(**words)}


def other_language(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    """German."""
    return row | {"text": draw.choice(GERMAN)}


def other_script(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    """Russian."""
    return row | {"text": draw.choice(RUSSIAN)}


def longer(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    """A long story after the request."""
    return row | {"text": row["text"] + RAMBLING[: draw.randrange(90, len(RAMBLING))]}


def keywords(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    """Two or three words, as into a search box."""
    words = row["text"].split()
    return row | {"text": " ".join(draw.sample(words, min(len(words), draw.randrange(2, 4))))}


def garbled(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    """A third of the letters wrong, as from a bad scan."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    return row | {"text": "".join(draw.choice(letters) if draw.random() < 1 / 3 else one for one in row["text"])}


def other_answers(row: dict[str, str], draw: random.Random) -> dict[str, str]:
    """The same requests, and other answers than it learned."""
    return row | {"label": draw.choice([one for one in intents.INTENTS if one != row["label"]])}


def planted(kind: str, rows: Rows, draw: random.Random) -> Rows:
    """Shift some rows."""
    if kind in ("none", "shares of classes"):  # whose rows are drawn otherwise
        return rows
    shift: Callable[[dict[str, str], random.Random], dict[str, str]] = KINDS[kind]
    moved = {*draw.sample(range(len(rows)), round(SHARE * len(rows)))}
    return [shift(row, draw) if place in moved else row for place, row in enumerate(rows)]


KINDS: dict[str, Any] = {
    "another topic": other_topic,
    "another language": other_language,
    "another script": other_script,
    "longer": longer,
    "keywords": keywords,
    "garbled": garbled,
    "shares of classes": None,
    "other answers": other_answers,
}


def drawn(kind: str, pool: Rows, count: int, draw: random.Random) -> Rows:
    """Rows for a trial, those of five classes nine times as likely where their shares change."""
    if kind != "shares of classes":
        return draw.sample(pool, count)
    favoured = {*draw.sample(sorted(intents.INTENTS), 5)}
    weights = [9 if row["label"] in favoured else 1 for row in pool]
    keys = {place: draw.random() ** (1 / weight) for place, weight in enumerate(weights)}  # without replacement
    return [pool[place] for place in sorted(keys, key=keys.__getitem__)[-count:]]


class Watched:
    """A run, and what its tests need of each text, computed once."""

    def __init__(self, run: Any) -> None:
        from peft_nb.documents.embedding import Embedder
        from peft_nb.serving.route import ENCODER

        self.run, self._embedder = run, Embedder(ENCODER)
        self._vectors: dict[str, Any] = {}
        self._losses: dict[tuple[str, str], float] = {}

    def side(self, rows: Rows) -> Any:
        """Rows with their embeddings, each text embedded once."""
        from peft_nb.runs.new_rows import Side

        texts = [row["text"] for row in rows]
        if new := [one for one in dict.fromkeys(texts) if one not in self._vectors]:
            self._vectors |= dict(zip(new, self._embedder.embed(new), strict=True))
        return Side(texts, vectors=numpy.stack([self._vectors[one] for one in texts]))

    def losses(self, rows: Rows) -> Any:
        """Mean losses of rows, each measured once."""
        from peft_nb.data import detection, sources
        from peft_nb.data.rendered import RenderedRows

        keys = [(row["text"], row["label"]) for row in rows]
        new = list({key: row for row, key in zip(rows, keys, strict=True) if key not in self._losses}.values())
        if new:
            spec, task = self.run.spec, self.run.adapter.task
            read = sources.read(given(new)).train
            layout = detection.detect(read, spec.format, spec.columns)
            rendered = RenderedRows(read, layout, self.run.tokenizer, loss_on=spec.loss_on, system=spec.system)
            _, encoded = task.encode(rendered, spec, dict(self.run.facts.task), row_name="row")
            found = self.run.adapter.losses(encoded.examples)
            self._losses |= {(row["text"], row["label"]): loss for row, loss in zip(new, found, strict=True)}
        return numpy.array([self._losses[key] for key in keys])

    def tests(self, learned: Rows, evaluated: Rows, new: Rows) -> list[Any]:
        """The tests of ``%peft watch``."""
        from peft_nb.evaluation import drift
        from peft_nb.runs import watch

        before, now = self.side(learned), self.side(new)
        kinds = drift.topics(numpy.concatenate([before.vectors, now.vectors]))
        groups = [(len(before), len(now), watch.inputs(before, now, kinds))]
        if self.run is not None:
            usual, measured = self.losses(evaluated), self.losses(new[: watch.MEASURED])
            groups.append((len(usual), len(measured), [watch.loss(usual, measured, "nats per token")]))
        return drift.compare(*groups)


def given(rows: Rows) -> Rows:
    """Rows as the run learns them."""
    return [{"prompt": row["text"], "completion": row["label"].replace("_", " ")} for row in rows]


def auc(shifted: Sequence[float], plain: Sequence[float]) -> float:
    """How often a trial with a shift has the smaller p-value, ties counting half."""
    return statistics.fmean((one < other) + (one == other) / 2 for one in shifted for other in plain)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row a kind, as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="of each kind (default 40)")
    parser.add_argument("--none", type=int, default=400, help="without a shift (default 400)")
    parser.add_argument("--rows", type=int, default=100, help="of a trial (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the rows and of what is drawn (default 1)")
    parser.add_argument("--prompts", action="store_true", help="compare prompts alone")
    asked = parser.parse_args(argv)
    draw = random.Random(asked.seed)
    rows, _ = intents.split(EACH, 1, asked.seed)
    draw.shuffle(rows)
    print(f"{len(rows) - TAUGHT} rows to draw trials of {asked.rows} from; {SHARE:.0%} of them are shifted", flush=True)
    if asked.prompts:
        measure(Watched(None), rows[TAUGHT:], asked, [kind for kind in KINDS if kind != "other answers"], draw)
        return
    with TemporaryDirectory() as folder:
        measure(Watched(taught(rows[:TAUGHT], folder)), rows[TAUGHT:], asked, list(KINDS), draw)


def taught(rows: Rows, folder: str) -> Any:
    """A run that has learned to name intents."""
    import peft_nb

    os.environ["PEFT_NB_STORE"] = folder
    how: dict[str, Any] = {"method": "lora", "max_steps": STEPS, "batch_size": 8, "judge": "off"}
    began = time.perf_counter()
    run = peft_nb.train(data=given(rows[:-EVALUATED]), eval_data=given(rows[-EVALUATED:]), **how)
    losses = f"{run.metrics['base_eval_loss']:.2f} → {run.metrics['eval_loss']:.2f}"
    took = time.perf_counter() - began
    print(
        f"{len(rows) - EVALUATED} rows learned in {took:.0f} s, eval loss {losses}, {run.adapter.scorer()}", flush=True
    )
    return run


def measure(watched: Watched, pool: Rows, asked: argparse.Namespace, kinds: Sequence[str], draw: random.Random) -> None:
    """Print how often each kind of shift raises an alarm, and by which tests."""
    plain: list[float] = []
    for kind, trials in (("none", asked.none), *((kind, asked.trials) for kind in kinds)):
        found, by, alarms, began = [], Counter[str](), 0, time.perf_counter()
        for _ in range(trials):
            draw.shuffle(pool)
            usual, others = pool[:TAUGHT], pool[TAUGHT:]
            new = planted(kind, drawn(kind, others, asked.rows, draw), draw)
            tests = watched.tests(usual[:LEARNED], usual[LEARNED:], new)
            found.append(min(one.p for one in tests))
            by.update(one.name for one in tests if one.alarm)
            alarms += any(one.alarm for one in tests)
        plain = plain or found
        told = "" if kind == "none" else f", AUC {auc(found, plain):.3f}"
        seen = ", ".join(f"{name} {count}" for name, count in by.most_common())
        took = time.perf_counter() - began
        print(
            f"{kind:20} alarms in {alarms} of {trials} ({alarms / trials:.1%}){told}; {seen}; {took:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
