"""What a run is trained on: its rows read, recognised, checked and encoded, and found again when it resumes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.adapters.export import Side
from peft_nb.data import Rows, detection, encoding, examples, labels, prompts, sources, splits
from peft_nb.data.detection import Layout
from peft_nb.data.examples import Encoded, Example, Examples
from peft_nb.data.labels import Classes
from peft_nb.data.legacy import legacy_labelled
from peft_nb.data.quality import checks, fixes, redaction
from peft_nb.data.quality.fixes import Change
from peft_nb.data.quality.lengths import Options
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import prepare
from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import DataError, StoreError
from peft_nb.events import Event, Notice, Progress
from peft_nb.methods import REGISTRY
from peft_nb.spec import RunSpec
from peft_nb.system import resources
from peft_nb.system.files import atomic_text

if TYPE_CHECKING:
    from peft_nb.evaluation.evaluators import Asked
    from peft_nb.models.load import Base

OWN = 200  # of the user's own regression rows, at most
CHECKED_ROWS = 2_000  # rows that a run looks through before it trains; `%peft data` takes its time for all


@dataclass
class RunData:
    """The rows of one run.

    Attributes
    ----------
    spec : RunSpec
        What to do.
    given : object
        Rows passed instead of a name, or None.
    held_out : object
        Held-out rows passed instead of a name, or None.
    namespace : mapping
        The notebook's variables.
    metrics : dict
        The run's; what is found out about the data goes there.
    publish : callable
        Takes each event.
    progress : callable
        Called with the share that is done (0 to 1) and what is being done.
    asked : list of Asked
        Held-out rows to be answered when the run is over.
    own : list of (str, Example)
        The user's own regression rows with their names.
    """

    spec: RunSpec
    given: Any
    held_out: Any
    namespace: Mapping[str, Any]
    metrics: dict[str, Any]
    publish: Callable[[Event], None]
    progress: Progress
    asked: list[Asked] = field(default_factory=list)
    own: list[tuple[str, Example]] = field(default_factory=list)
    _first: RenderedRows | None = None

    def read(self) -> None:
        """Find the rows, recognise their layout, and check that they fit the task; imports no PyTorch."""
        self._find()
        self._recognise()

    def _find(self) -> None:
        spec = self.spec
        source = sources.read(spec.data if self.given is None else self.given, self.namespace)
        self.rows, self.eval_rows = source.train, source.eval
        self._fingerprints = [source.fingerprint] * 2
        if spec.eval_data is not None:
            apart = sources.read(spec.eval_data if self.held_out is None else self.held_out, self.namespace)
            self.eval_rows, self._fingerprints[1] = apart.train, apart.fingerprint
        if spec.regression is not None:
            self._own = sources.read(spec.regression, self.namespace)
            self._own_layout = detection.detect(self._own.train, "auto", {})
            labels.check_task("generation", self._own_layout)
        self.layout = detection.detect(self.rows, spec.format, spec.columns)
        self.metrics |= {"data": source.origin, "fingerprint": source.fingerprint, "layout": self.layout.name}

    def _recognise(self) -> None:
        labels.check_task(self.spec.task, self.layout, self.spec.too_long)
        if not self.classifies:
            return
        classes = labels.find(self.rows, self.layout)
        if self.eval_rows is not None:
            labels.read(self.eval_rows, self._held_out()[1], classes, "held-out row")
        self.metrics |= {"classes": list(classes.names), "multi_label": classes.multi}

    @property
    def classifies(self) -> bool:
        """Whether the run learns to give texts labels."""
        return self.spec.task == "classification"

    @property
    def classes(self) -> Classes:
        """What a text can be, in a run that classifies."""
        return Classes(tuple(self.metrics.get("classes", ())), self.metrics.get("multi_label", False))

    def vet(self) -> None:
        """Replace personal data in the rows, or refuse to train on them, where the spec says so."""
        wanted = self.spec.personal_data
        self.rows, self._redacted = redaction.redact_rows(self.rows, self.layout, wanted, self.progress)
        if self.eval_rows is not None:
            self.eval_rows, more = redaction.redact_rows(self.eval_rows, self._held_out()[1], wanted, self.progress)
            self._redacted += [Change(change.row, f"held-out row: {change.what}") for change in more]
        if self._redacted:
            counts = Counter(change.what for change in self._redacted)
            self.publish(Notice("personal data: " + ", ".join(f"{what} ({n:,})" for what, n in counts.items())))
        if wanted == "redact":  # or rows with and without personal data would be taken for the same
            self._fingerprints = [f"{fingerprint}, redacted" for fingerprint in self._fingerprints]

    def check(self, folder: Path, tokenizer: Any) -> None:
        """Look for what spoils training, say it before the first step, and keep the report in the run's folder."""
        if resources.rank():
            return
        report = checks.cached(
            folder.parent.parent / "checks",
            self._fingerprints,
            self._rendered(tokenizer, self.rows, self.layout),
            self.eval_rows,
            self._held_out()[1] if self.eval_rows else None,
            options=Options.of(self.spec, REGISTRY[self.spec.method].rows),
            most=CHECKED_ROWS,
            progress=self.progress,
        )
        changes = [*fixes.remembered(self.metrics["fingerprint"]), *self._redacted]
        told = {"data": self.metrics["data"], **report, "changes": [asdict(change) for change in changes]}
        atomic_text(folder / "data.json", json.dumps(told, ensure_ascii=False, indent=1))
        serious = [finding["title"] for finding in report["findings"] if finding["level"] != "note"]
        if serious:
            named = [name for name in (self.spec.data, self.spec.eval_data) if name]
            more = "peft_nb.check" if IN_MEMORY in named else f"%peft data {' --eval-data '.join(named)}"
            self.publish(Notice(f"{'; '.join(serious)}; {more} shows more"))

    def _rendered(self, tokenizer: Any, rows: Rows, layout: Layout) -> RenderedRows:
        """Rows as the model will see them; of the same rows the same object, so that each is rendered once."""
        if rows is not self.rows:
            return RenderedRows(rows, layout, tokenizer, loss_on=self.spec.loss_on, system=self.spec.system)
        if self._first is None or self._first.rows is not rows:
            self._first = RenderedRows(rows, layout, tokenizer, loss_on=self.spec.loss_on, system=self.spec.system)
        return self._first

    def examples(self, folder: Path, tokenizer: Any, resume: bool) -> tuple[Examples, Examples]:
        """The encoded examples; which they are is written beside the run, so that it resumes without its data."""
        path, shelf = folder / "examples.json", folder.parent.parent / "examples"  # the shelf is of all runs
        if resume and (stored := self._stored(folder)):
            return stored
        if resume:
            self._read_again()
        key, train = self._encode(shelf, tokenizer, self.rows, self.layout, self._fingerprints[0], "row")
        self.publish(Notice(f"{self.metrics['data']}: {train.report}"))
        kept: dict[str, Any] = {"keys": [key], "held_out": []}
        if self.eval_rows is not None:
            key, held_out = self._encode(shelf, tokenizer, *self._held_out(), self._fingerprints[1], "held-out row")
            kept["keys"].append(key)
            if held_out.report.long:
                self.publish(Notice(f"held-out rows: {held_out.report}"))
            sides = train.examples, held_out.examples
        else:
            kept["held_out"] = self._set_aside(train.examples)
            sides = train.examples.parted(kept["held_out"])
        if resources.rank() == 0:
            atomic_text(path, json.dumps(kept))
            prompts.save(folder, prompts.of_rows(*self._held_out(), sorted(set(sides[1].rows.tolist()))))
        return sides

    def _stored(self, folder: Path) -> tuple[Examples, Examples] | None:
        """The examples that a run began with, where they are still there."""
        path, shelf = folder / "examples.json", folder.parent.parent / "examples"
        if self.classifies and (folder / "labelled.safetensors").exists():
            return legacy_labelled(folder / "labelled.safetensors")
        if not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = [loaded.examples for key in kept["keys"] if (loaded := examples.load(shelf / key))]
        if len(found) < len(kept["keys"]):
            return None
        return (found[0], found[1]) if found[1:] else found[0].parted(kept["held_out"])

    def labelled(self, folder: Path, base: Base, resume: bool) -> tuple[Examples, Examples]:
        """The encoded examples of a classifier; which they are is written beside the run, as by :meth:`examples`."""
        path, shelf, spec = folder / "examples.json", folder.parent.parent / "examples", self.spec
        if resume and self.classes.names and (stored := self._stored(folder)):
            return stored
        if resume:
            self._read_again()
        # What the spec allows and the model has places for.
        places = getattr(base.model.config.get_text_config(), "max_position_embeddings", None) or spec.max_length
        longest = min(spec.max_length, base.tokenizer.model_max_length, places)
        self.metrics["max_tokens"] = longest
        options: dict[str, Any] = {"max_length": longest, "too_long": spec.too_long, "progress": self.progress}
        rendered = self._rendered(base.tokenizer, self.rows, self.layout)
        key, encoded = labels.cached(shelf, self._fingerprints[0], rendered, self.classes, **options)
        self.publish(Notice(f"{self.metrics['data']}: {encoded.report}"))
        kept: dict[str, Any] = {"keys": [key], "held_out": []}
        if self.eval_rows is not None:
            given = self._fingerprints[1], self._rendered(base.tokenizer, *self._held_out()), self.classes
            key, aside = labels.cached(shelf, *given, row_name="held-out row", **options)
            kept["keys"].append(key)
            sides = encoded.examples, aside.examples
        else:
            rows = encoded.examples.rows.tolist()
            texts = splits.Texts(self.rows, self.layout, rows)
            _, taken = splits.split(texts, spec.eval_fraction, spec.seed, encoded.examples.labels, self.progress)
            kept["held_out"] = [rows[place] for place in taken]
            sides = encoded.examples.parted(kept["held_out"])
        if resources.rank() == 0:
            atomic_text(path, json.dumps(kept))
            texts = splits.Texts(*self._held_out(), sides[1].rows.tolist())
            told = [", ".join(self.classes.names[int(label)] for label in own) for own in sides[1].labels]
            prompts.save(folder, prompts.spread(list(map(prompts.Asked, texts, told))))
        return sides

    def keep_for_judge(self, folder: Path, tokenizer: Any, held_out: Examples, resume: bool) -> None:
        """Find `asked` and `own`, and keep them beside the run as :meth:`examples` keeps those."""
        from peft_nb.evaluation.evaluators import ANSWERED, Asked, parts

        path, shelf = folder / "judging.json", folder.parent.parent / "examples"
        if resume and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
        else:
            if resume and not hasattr(self, "rows"):
                self._read_again()
            kept = {"asked": [], "regression": None}
            if "answers" in parts(self.spec):
                kept["asked"] = self._conversations(held_out, ANSWERED)
            if self.spec.regression is not None:
                source = self._own
                options = (source.train, self._own_layout, source.fingerprint, "regression row")
                kept["regression"], _ = self._encode(shelf, tokenizer, *options)
            if resources.rank() == 0:
                atomic_text(path, json.dumps(kept, ensure_ascii=False))
        self.asked = [Asked(**one) for one in kept["asked"]]
        if kept["regression"] is not None and (encoded := examples.load(shelf / kept["regression"])):
            found = encoded.examples
            self.own = [(f"row {found.rows[place]}", found[place]) for place in prompts.spread(range(len(found)), OWN)]

    def _conversations(self, held_out: Examples, most: int) -> list[dict[str, Any]]:
        """Some of the held-out rows as conversations up to their last answer, and that answer."""
        rows, layout = self._held_out()
        if layout.plain:
            return []
        numbers = sorted(set(held_out.rows.tolist()))
        found = []
        for number in prompts.spread(numbers, most):
            *before, answer = prepare(layout.messages(rows[number]), self.spec.system, generation=False)
            if before and answer["content"].strip():
                found.append({"messages": before, "reference": answer["content"]})
        return found

    def judging(self, folder: Path, tokenizer: Any) -> tuple[Sequence[Any], str]:
        """What to judge the trained model by: the held-out examples, else those it learned, else none; and their name.

        Only what was kept beside the run is looked at; the data may be gone.
        """
        sides: tuple[Sequence[Any], Sequence[Any]] = (), ()
        if self.classifies:
            sides = self._stored(folder) or sides
        elif (folder / "examples.json").exists():
            with suppress(DataError, StoreError):
                sides = self.examples(folder, tokenizer, resume=True)
        train, held_out = sides
        return (held_out, "held-out rows") if len(held_out) else (train, "training rows")

    def _encode(
        self, shelf: Path, tokenizer: Any, rows: Rows, layout: Layout, fingerprint: str, row_name: str
    ) -> tuple[str, Encoded]:
        spec = self.spec
        return encoding.cached(
            shelf,
            fingerprint,
            self._rendered(tokenizer, rows, layout),
            max_length=spec.max_length,
            too_long=spec.too_long,
            row_name=row_name,
            progress=self.progress,
        )

    def _set_aside(self, encoded: Examples) -> list[int]:
        """Numbers of the rows to hold out, of those that became examples."""
        if not self.spec.eval_fraction:
            return []
        numbers = sorted(set(encoded.rows.tolist()))
        texts = splits.Texts(self.rows, self.layout, numbers)
        _, aside = splits.split(texts, self.spec.eval_fraction, self.spec.seed, progress=self.progress)
        if not aside and len(numbers) > 1:
            self.publish(Notice("no row is held out: all of them are nearly the same; give eval_data"))
        return [numbers[place] for place in aside]

    def sides(self, folder: Path, tokenizer: Any, namespace: Mapping[str, Any]) -> tuple[Side, Side]:
        """The training and held-out examples of a run that began, each with its rows where they are still to be had."""
        train, held_out = self.examples(folder, tokenizer, resume=True)
        given = (self.given, self.held_out, namespace, dict(self.metrics))
        found = self if hasattr(self, "rows") else RunData(self.spec, *given, lambda event: None, lambda *told: None)
        try:
            if found is not self:
                found._read_again()
        except DataError:  # gone, or not what they were
            return Side(train), Side(held_out)
        return Side(train, found.rows, found.layout), Side(held_out, *found._held_out())

    def _read_again(self) -> None:
        before = self.metrics.get("fingerprint")
        self._find()
        if before not in (None, self.metrics["fingerprint"]):
            raise DataError(f"{self.spec.data} is not what the run began with; put it back, or start a new run")
        self._recognise()
        self.vet()

    def _held_out(self) -> tuple[Rows, Layout]:
        """The table that held-out rows come from, and what its columns mean."""
        if self.eval_rows is None:
            return self.rows, self.layout
        return self.eval_rows, detection.detect(self.eval_rows, self.spec.format, self.spec.columns)
