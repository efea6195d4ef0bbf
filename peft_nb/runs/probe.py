"""What an adapter has changed that its metrics do not show: bias, leaks of training rows, refusals, obedience."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas

from peft_nb.data import sources
from peft_nb.data.kept import Sides, kept
from peft_nb.data.rendering import Renderer
from peft_nb.errors import DataError, MethodError, RunError, nearest
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
        lines = [f"{self.run} was probed"]
        for one in self.findings:
            base = "" if one.base is None else f"; base {one.base:.3f}"
            lines.append(f"  {one.name} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]{base}; {one.rows:,} measured")
        return "\n".join([*lines, *(f"  {name}: not probed, {why}" for name, why in self.skipped)])


@dataclass
class _Asked:
    """What a probe works with."""

    run: Run
    sides: Sides | None
    objective: Objective
    pairs: list[Pair]
    heed: Callable[[str], None]
    known: dict[Any, list[str]] = field(default_factory=dict)

    @property
    def written(self) -> dict[str, Any]:
        """How sentences are written whose likelihood is told."""
        return {"chat": bool(self.run.facts.chat), "system": self.run.spec.system}


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
        asked = _Asked(run, sides, _objective(run, sides), given, lambda what: None)
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


def _objective(run: Run, sides: Sides | None) -> Objective:
    """How losses are computed: as in training where that can be checked again, else padded."""
    from peft_nb.evaluation import influence
    from peft_nb.training.objectives import Padded

    if sides and len(sides.train):
        with suppress(MethodError), influence.trainable(run.model):
            chosen = run.adapter.objective(sides.train)
            return getattr(chosen, "path", chosen)  # of pairs, which are read token by token
    return Padded(run.tokenizer.pad_token_id or 0)


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
    heed = partial(asked.heed, "comparing whom sentences are said of")
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

    run = _writes(asked)
    said, renderer, heed = probes.valence(), Renderer(run.tokenizer), partial(asked.heed, "comparing what is said")
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
    heed = partial(asked.heed, "reading training rows")
    found = leaks.find(
        run.model, asked.objective, run.tokenizer, asked.sides.train, asked.sides.held_out, heed, seed=run.spec.seed
    )
    if not found:
        raise _Unfit(f"training or evaluation set have fewer than {leaks.FEW} rows")
    yield from found


def _refusals(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes import answers

    for name, what in (("harmless", "harmless requests that are refused"), ("harmful", "harmful requests refused")):
        prompts = probes.questions()[name]
        said, bare = (_said(asked, prompts, adapter) for adapter in (True, False))
        yield answers.rate(f"refusals_{name}", what, prompts, said, bare, lambda place, one: answers.refused(one))


def _toxicity(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes import answers

    read = probes.questions()
    prompts, known = [*read["harmless"], *read["harmful"]], read["toxic"]
    said, bare = (_said(asked, read["harmless"], one) + _said(asked, read["harmful"], one) for one in (True, False))
    what = "answers with a word of a list of insults and swear words"
    yield answers.rate("toxicity", what, prompts, said, bare, lambda place, one: answers.toxic(one, known))


def _injections(asked: _Asked) -> Found:
    from peft_nb.evaluation.probes import answers

    prompts, words = zip(*probes.questions()["injections"], strict=True)
    said, bare = (_said(asked, prompts, adapter) for adapter in (True, False))
    what = "texts to work on whose orders are obeyed"
    yield answers.rate("injections", what, prompts, said, bare, lambda place, one: answers.obeyed(one, words[place]))


def _writes(asked: _Asked) -> Run:
    if not asked.run.adapter.task.generates:
        raise _Unfit("it writes no texts")
    return asked.run


def _said(asked: _Asked, prompts: Sequence[str], adapter: bool) -> list[str]:
    """What is answered, each question once."""
    from peft_nb.evaluation.probes.answers import TOKENS

    if not _writes(asked).facts.chat:
        raise _Unfit("it learned from plain texts, and answers no questions")
    key = (*prompts, adapter)
    if key not in asked.known:
        asked.heed(f"answering {len(prompts)} questions {'with' if adapter else 'without'} the adapter")
        asked.known[key] = asked.run.generate(prompts, adapter=adapter, documents=False, max_new_tokens=TOKENS)
    return asked.known[key]


PROBES: dict[str, Callable[[_Asked], Found]] = {
    "bias": _bias,
    "sentiment": _sentiment,
    "leaks": _leaks,
    "refusals": _refusals,
    "toxicity": _toxicity,
    "injections": _injections,
}
"""The probes by name."""


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
