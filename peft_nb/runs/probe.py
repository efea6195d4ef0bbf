"""What an adapter has changed that its metrics do not show: bias, leaks of training rows, refusals, obedience."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import pandas

from peft_nb.data import sources
from peft_nb.data.kept import Sides, kept
from peft_nb.data.prompts import short
from peft_nb.data.rendering import Renderer
from peft_nb.errors import DataError, RunError, nearest
from peft_nb.evaluation import probes
from peft_nb.evaluation.probes import Finding, Pair
from peft_nb.events import Progress, silent
from peft_nb.metrics import METRICS
from peft_nb.models.quiet import quiet
from peft_nb.runs.run import Run
from peft_nb.spec import criteria
from peft_nb.store import Evaluation
from peft_nb.system.display import Paged

if TYPE_CHECKING:
    from peft_nb.training.objectives import Objective

SUITE = "probe"
SHOWN = 3  # changes of a probe that its text lists
Found = Iterator[Finding]


@dataclass(frozen=True)
class Probe(Paged):
    """What probing a run has found.

    Attributes
    ----------
    run : str
        What was probed.
    findings : tuple of Finding
        One a probe.
    skipped : tuple of (str, str)
        Probes that do not fit the run, and why.
    """

    run: str
    findings: tuple[Finding, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, name: str) -> Finding:
        for one in self.findings:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def table(self) -> pandas.DataFrame:
        """One row a probe: ``probe``, ``value``, ``low``, ``high``, ``base``, ``rows``, and ``changed``, in words."""
        rows = [
            (one.name, one.value, one.low, one.high, one.base, one.rows, "; ".join(told for told, *_ in one.clear))
            for one in self.findings
        ]
        return pandas.DataFrame(rows, columns=["probe", "value", "low", "high", "base", "rows", "changed"])

    def __repr__(self) -> str:
        changed = sum(bool(one.clear) for one in self.findings)
        lines = [f"{self.run} was probed: {changed} of {len(self.findings)} probes show a change from the base"]
        for one in self.findings:
            base = "" if one.base is None else f", base {one.base:.3f}"
            sure = f"95 % interval {one.low:.3f} to {one.high:.3f}"
            lines += [f"  {one.name} {one.value:.3f} ({sure}{base}, {one.rows:,} measured)", f"    {one.what}"]
            most = sorted(one.clear, key=lambda part: -abs(part[1]))
            lines += [f"    {name} {mean:+.3f} ({low:+.3f} to {high:+.3f})" for name, mean, low, high in most[:SHOWN]]
            if len(most) > SHOWN:
                lines.append(f"    and {len(most) - SHOWN} more of {len(one.detail)}")
            lines += [f"    such as: {short(text)}" for text in one.examples[:1]]
        return "\n".join([*lines, *(f"  {name}: not probed, {why}" for name, why in self.skipped)])


@dataclass
class _Asked:
    """What a probe works with."""

    run: Run
    sides: Sides | None
    objective: Objective
    pairs: list[Pair]
    prompts: list[str]
    heed: Callable[[str], None] = lambda what: None

    @property
    def written(self) -> dict[str, Any]:
        """How sentences are written whose likelihood is told."""
        return {"chat": bool(self.run.facts.chat), "system": self.run.spec.system}

    @cached_property
    def answers(self) -> tuple[dict[str, str], dict[str, str]]:
        """What the prompts of all probes are answered, with the adapter and by the base; asked together."""
        from peft_nb.evaluation.probes.answers import TOKENS

        run, found = self.run, []
        if not run.adapter.task.generates:
            raise _Unfit("it writes no texts")
        if not run.facts.chat:
            raise _Unfit("it learned from plain texts, and answers no questions")
        for adapter, side in ((True, "the adapter"), (False, "the base model")):
            self.heed(f"answering {len(self.prompts)} questions with {side}")
            said = run.generate(self.prompts, adapter=adapter, documents=False, max_new_tokens=TOKENS)
            found.append(dict(zip(self.prompts, said, strict=True)))
        return found[0], found[1]


class _Unfit(Exception):
    """A probe does not fit the run, and the message says why."""


def probe(
    run: Run,
    *,
    pairs: Any = None,
    only: Sequence[str] = (),
    namespace: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Probe:
    """Probe a run, mostly as a change from its base; what is found is kept with the run and in the log.

    Parameters
    ----------
    run : Run
        One that reads texts.
    pairs : object, optional
        Pairs of your own in place of those that ship with the package: whatever a run takes as data, with columns
        ``first`` and ``second``, perhaps ``axis``, and ``stereotype`` (``first`` or ``second``).
    only : sequence of str
        Some of `PROBES`; by default all.
    namespace : mapping, optional
        The notebook's variables.
    progress : callable
        Told how far it is.

    Returns
    -------
    Probe
        ``.table``, and each finding by its name.

    Raises
    ------
    DataError
        If there is no such probe, or the pairs cannot be read.
    RunError
        If the run reads no texts.
    """
    wanted = list(dict.fromkeys(only)) or list(PROBES)
    for name in wanted:
        if name not in PROBES:
            known = nearest(name, PROBES) or f"; there are {', '.join(PROBES)}"
            raise DataError(f"there is no probe {name!r}{known}")
    if run.adapter.task.base in ("vision", "speech", "diffusion"):
        raise RunError(f"run {run.id} reads no texts, and is not probed so far")
    given = probes.pairs() if pairs is None else _own(pairs, namespace or {})
    found, skipped = list[Finding](), list[tuple[str, str]]()
    with run.adapter.using, quiet():
        run.adapter.open(progress)
        sides = kept(run.folder)
        prompts = [one for name in wanted for kind in ASKED.get(name, ()) for one in probes.prompts(kind)]
        asked = _Asked(run, sides, run.adapter.scorer(), given, list(dict.fromkeys(prompts)))
        for number, name in enumerate(wanted):
            asked.heed = partial(progress, number / len(wanted))
            asked.heed(f"probing {name}")
            try:
                found += PROBES[name](asked)
            except _Unfit as reason:
                skipped.append((name, str(reason)))
    made = Probe(run.version or run.id, tuple(found), tuple(skipped))
    _keep(run, made, whole=len(wanted) == len(PROBES))
    return made


def _own(given: Any, namespace: Mapping[str, Any]) -> list[Pair]:
    """Read pairs of the user's own."""
    found, signs = [], {"first": 1, "second": -1}
    for number, row in enumerate(sources.read(given, namespace).train):
        first, second, sign = (str(row.get(name) or "").strip() for name in ("first", "second", "stereotype"))
        if not first or not second:
            raise DataError(f"pairs: row {number} lacks first or second; name the columns first, second and axis")
        if sign not in ("", *signs):
            raise DataError(f"pairs: row {number} has stereotype {sign!r}; write first, second or nothing")
        found.append(Pair(str(row.get("axis") or "own pairs"), first, second, signs.get(sign, 0)))
    if not found:
        raise DataError("pairs: there are no rows")
    return found


def _bias(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes import bias

    run, seed = asked.run, asked.run.spec.seed
    heed = partial(asked.heed, f"comparing {len(asked.pairs)} pairs of sentences, adapter and base")
    if run.adapter.task.generates:
        renderer, how = Renderer(run.tokenizer), asked.written
        yield bias.by_likelihood(run.model, asked.objective, renderer, asked.pairs, heed, seed=seed, **how)
        return
    objective: Any = asked.objective
    found = bias.by_classes(run.model, objective, run.tokenizer, asked.pairs, seed)
    if found is None:
        raise _Unfit("it gives texts no classes")
    yield found


def _sentiment(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes import bias

    if not (run := asked.run).adapter.task.generates:
        raise _Unfit("it writes no texts")
    said, renderer = probes.valence(), Renderer(run.tokenizer)
    heed = partial(asked.heed, f"comparing {len(said)} kind and unkind sentences, adapter and base")
    both = [(kind, unkind) for *_, kind, unkind in said]
    after = bias.preferences(run.model, asked.objective, renderer, both, heed, **asked.written)
    with run.model.disable_adapter():
        before = bias.preferences(run.model, asked.objective, renderer, both, heed, **asked.written)
    yield bias.of_sentiment(said, before, after, run.spec.seed)


def _leaks(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes import leaks

    run = asked.run
    if run.adapter.task.unit not in ("token", "text"):
        raise _Unfit("it learned from judged answers")
    if asked.sides is None:
        raise _Unfit("the rows that it learned from have left the store")
    heed = partial(asked.heed, "computing the loss of training and evaluation rows, adapter and base")
    found = leaks.find(
        run.model, asked.objective, run.tokenizer, asked.sides.train, asked.sides.held_out, heed, seed=run.spec.seed
    )
    if not found:
        raise _Unfit(f"training or evaluation set have fewer than {leaks.FEW} rows")
    yield from found


def _refusals(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes.answers import refused

    for kind in ASKED["refusals"]:
        what = f"share of {kind} requests that are refused"
        yield _rate(asked, f"refusals_{kind}", what, [kind], lambda prompt, answer: refused(answer))


def _toxicity(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes.answers import toxic

    known, what = probes.questions()["toxic"], "share of answers with an insult or a swear word, by a list"
    yield _rate(asked, "toxicity", what, ASKED["toxicity"], lambda prompt, answer: toxic(answer, known))


def _injections(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes.answers import obeyed

    words, what = dict(probes.questions()["injections"]), "share of orders inside a text that are obeyed"
    yield _rate(asked, "injections", what, ASKED["injections"], lambda prompt, answer: obeyed(answer, words[prompt]))


def _rate(asked: _Asked, name: str, what: str, kinds: Sequence[str], marked: Callable[[str, str], bool]) -> Finding:
    """Count answers to some kinds of questions that have something, of the adapter and of the base."""
    from peft_nb.evaluation.probes import answers

    prompts = [prompt for kind in kinds for prompt in probes.prompts(kind)]
    said, bare = ([own[prompt] for prompt in prompts] for own in asked.answers)
    return answers.rate(name, what, prompts, said, bare, marked)


PROBES: dict[str, Callable[[_Asked], Found]] = {
    "bias": _bias,
    "sentiment": _sentiment,
    "leaks": _leaks,
    "refusals": _refusals,
    "toxicity": _toxicity,
    "injections": _injections,
}
"""The probes by name."""

ASKED = {"refusals": ("harmless", "harmful"), "toxicity": ("harmless", "harmful"), "injections": ("injections",)}
"""Of those that look through answers the kinds of questions; see :func:`.probes.prompts`."""


def _keep(run: Run, made: Probe, whole: bool) -> None:
    """Keep the numbers with the run, those of the table of metrics with its metrics, and a line in the log."""
    told = [Evaluation(SUITE, one.name, one.value, one.low, one.high, detail=kept_of(one)) for one in made.findings]
    run.store.evaluate(run.id, told, anew=SUITE if whole else None)
    metrics = run.metrics
    for one in made.findings:
        if one.name in METRICS:
            metrics |= {one.name: one.value, f"{one.name}_interval": [one.low, one.high]}
    if metrics.get("verdict") and run.spec.accept.keys() & {one.name for one in made.findings}:
        verdict = criteria.verdict(run.spec.accept, metrics, run.judgement.get("missing", {}))
        metrics |= {"verdict": str(verdict), "criteria": [asdict(line) for line in verdict.lines]}
    run.record.set(metrics, run.facts)
    if whole:
        changed = ", ".join(one.name for one in made.findings if one.clear)
        run.store.probed(run.id, f"{len(made.findings)} probes: {f'changed: {changed}' if changed else 'no change'}")


def kept_of(found: Finding) -> dict[str, Any]:
    """What of a finding is kept: no text of a training row or an answer."""
    return {name: value for name, value in asdict(found).items() if name in ("base", "rows", "what", "detail")}
