"""Classification: a model learns to give texts labels, one or several a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from peft_nb.data.labels import Classes
from peft_nb.data.prompts import Asked
from peft_nb.errors import DataError
from peft_nb.tasks.base import Facts, Rows
from peft_nb.tasks.texts import TextTask

if TYPE_CHECKING:
    import numpy
    import pandas
    import torch
    from peft import PeftModel

    from peft_nb.data.examples import Example
    from peft_nb.data.layouts import Layout
    from peft_nb.evaluation.agreement import Counts
    from peft_nb.evaluation.evaluators import Evaluator
    from peft_nb.spec import RunSpec
    from peft_nb.training.text_objective import HeadMetrics

THRESHOLD = 0.5  # of a probability, above which a text that can have several classes has one


class Classification(TextTask):
    """To give texts labels.

    The facts also hold ``classes``, their names in the order of the head's outputs, and ``multi_label``, whether a text
    can have several.
    """

    name = "classification"
    help = "to give a text one or several labels"
    source = "Devlin et al., 2019"
    learned = "to classify texts"
    instead = "gives texts labels and writes none; call predict() on it"
    pipeline_tag = "text-classification"
    stratify = True
    unused: Mapping[str, str] = dict.fromkeys(("score", "regression"), "a classifier is judged by its accuracy")
    columns = ("text", "label", "probability")
    script = "task: a script is written for generation alone; as adapter and as yaml serve classification too"

    def validate(self, layout: Layout, spec: RunSpec) -> None:
        """Refuse rows without labels; parameters and errors as of :meth:`Task.validate`."""
        if layout.kind != "labelled":
            say = "format: text_label and columns: {text: …, label: …}"
            raise DataError(
                f"{layout.why}: task: classification learns a text's label; say which columns hold them, {say}"
            )
        if spec.too_long == "split":  # parts of a text need not have its label
            raise DataError(
                "too_long: split would give each part of a text the label of the whole; take truncate or drop"
            )

    def inspect(self, rows: Rows, layout: Layout) -> Facts:
        """Find the classes."""
        from peft_nb.data import labels

        classes = labels.find(rows, layout)
        return {"classes": list(classes.names), "multi_label": classes.multi}

    def labels(self, rows: Rows, layout: Layout, facts: Facts, row_name: str) -> list[tuple[int, ...]]:
        """The numbers of each text's classes."""
        from peft_nb.data import labels

        return [own for _, own in labels.read(rows, layout, classes(facts), row_name)]

    def told(self, facts: Facts) -> str:
        """What the classes are, for the report of encoding."""
        return str(classes(facts))

    def prompts(self, rows: Rows, layout: Layout, numbers: Sequence[int], facts: Facts) -> list[Asked]:
        """Choose a few texts and the names of their classes, in the order of the classes."""
        from peft_nb.data.prompts import spread

        chosen = [rows[number] for number in spread(numbers)]
        given = ({*layout.labels(row)} for row in chosen)
        told = (", ".join(name for name in facts["classes"] if name in own) for own in given)
        return [Asked(layout.text(row), own) for row, own in zip(chosen, told, strict=True)]

    def counted(self) -> Facts:
        """Two classes, one a text."""
        return {"classes": ["one", "other"], "multi_label": False}

    def head(self, facts: Facts) -> tuple[Sequence[str], Any]:
        """One output a class."""
        return facts["classes"], f"{'multi' if facts['multi_label'] else 'single'}_label_classification"

    def head_loss(self, facts: Facts) -> Callable[[torch.Tensor, Sequence[Example]], torch.Tensor]:
        """Cross-entropy in nats; for several classes a text binary cross-entropy, its mean over the classes."""
        return _binary_cross_entropy if facts["multi_label"] else _cross_entropy

    def head_metrics(self, facts: Facts) -> HeadMetrics | None:
        """How often the model is right."""
        from peft_nb.training.text_objective import HeadMetrics

        return HeadMetrics(partial(_marks_of, classes(facts)), partial(_numbers, classes(facts)))

    def measure(
        self,
        model: PeftModel,
        objective: Any,
        examples: Sequence[Example],
        device: torch.device,
        budget: int,
        facts: Facts,
    ) -> dict[str, Any]:
        """How often the model is right on the evaluation set."""
        from peft_nb.evaluation.texts import logits

        found = logits(model.eval(), objective, examples, device, budget)
        return scores(examples, probabilities(found, classes(facts)), classes(facts))

    def evaluator(self) -> type[Evaluator]:
        """What measures a trained classifier."""
        from peft_nb.evaluation.evaluators import TextEvaluator

        class ClassifierEvaluator(TextEvaluator):
            WRITES_NONE = "a classifier writes no texts"

        return ClassifierEvaluator

    def predict(self, model: PeftModel, tokenizer: Any, texts: Sequence[str], facts: Facts) -> pandas.DataFrame:
        """Classify texts.

        Parameters
        ----------
        model : peft.PeftModel
            A classifier in evaluation mode.
        tokenizer : transformers.PreTrainedTokenizerBase
            The model's tokenizer.
        texts : sequence of str
            What to classify; a longer text is cut, as in training.
        facts : dict
            What :meth:`inspect` and :meth:`limit` found.

        Returns
        -------
        pandas.DataFrame
            One row a text: ``text``, ``label``, ``probability``, and the probability of each class in a column of its
            name, ``p(name)`` where that is one of the first three. Where a text can have several classes, ``label`` and
            ``probability`` are lists of those with 0.5 or more.
        """
        found = probabilities(self.outputs(model, tokenizer, texts, facts), classes(facts))
        return self.told_of(self.inputs_shown(texts), found, facts)

    def inputs_shown(self, given: Sequence[Any]) -> list[Any]:
        """What stands for the inputs in the table of predictions: the texts themselves."""
        return list(given)

    def told_of(self, shown: Sequence[Any], found: numpy.ndarray, facts: Facts) -> pandas.DataFrame:
        """Lay probabilities out as :meth:`predict` gives them, beside what stands for the inputs."""
        import numpy
        import pandas

        names = facts["classes"]
        if facts["multi_label"]:
            marked = [numpy.flatnonzero(row >= THRESHOLD) for row in found]
            label: list[Any] = [[names[number] for number in own] for own in marked]
            probability: list[Any] = [row[own].tolist() for row, own in zip(found, marked, strict=True)]
        else:
            label, probability = [names[number] for number in found.argmax(1)], found.max(1).tolist()
        each = [f"p({name})" if name in self.columns else name for name in names]
        main = pandas.DataFrame(dict(zip(self.columns, (list(shown), label, probability), strict=True)))
        return pandas.concat([main, pandas.DataFrame(found, columns=each)], axis=1)

    def said(self, predicted: pandas.DataFrame) -> list[str]:
        """One class, or each of several, with its probability."""
        return [_with_share(*pair) for pair in zip(predicted["label"], predicted["probability"], strict=True)]

    def answer(self, outputs: torch.Tensor, facts: Facts) -> tuple[Any, ...]:
        """The numbers of the classes that a text has by the outputs for it."""
        if facts["multi_label"]:
            return tuple((outputs > 0).nonzero()[:, 0].tolist())
        return (int(outputs.argmax()),)

    def compare(self, ours: torch.Tensor, theirs: torch.Tensor, example: Any, facts: Facts) -> Counts:
        """Compare what two classifiers say of a text."""
        return (_by_classes if facts["multi_label"] else _by_class)(ours, theirs, example)

    def shown(self, facts: Facts) -> str:
        """The labels by their names."""
        if facts["multi_label"]:
            return "[[config.id2label[n] for n, on in enumerate(row) if on] for row in logits.sigmoid() >= 0.5]"
        return "[config.id2label[best] for best in logits.argmax(-1).tolist()]"

    def described(self, facts: Facts) -> Iterator[str]:
        """How many classes there are."""
        if names := facts.get("classes"):
            yield f"{len(names):,} classes" + (", several a text" if facts.get("multi_label") else "")


def classes(facts: Facts) -> Classes:
    """The classes of a run by its facts."""
    return Classes(tuple(facts.get("classes", ())), facts.get("multi_label", False))


def probabilities(logits: torch.Tensor, classes: Classes) -> numpy.ndarray:
    """Turn logits into the probability of every class.

    Parameters
    ----------
    logits : torch.Tensor
        Shape ``(texts, classes)``.
    classes : Classes
        What a text can be.

    Returns
    -------
    numpy.ndarray
        The same shape, float32. A row adds up to 1 unless a text can have several classes.
    """
    found: numpy.ndarray = (logits.sigmoid() if classes.multi else logits.softmax(-1)).numpy()
    return found


def scores(examples: Sequence[Example], found: numpy.ndarray, classes: Classes) -> dict[str, Any]:
    """Compare probabilities with the truth, by scikit-learn's metrics.

    Parameters
    ----------
    examples : sequence of Example
        What is true, at least one.
    found : numpy.ndarray
        What :func:`probabilities` gave for them.
    classes : Classes
        What a text can be.

    Returns
    -------
    dict
        ``accuracy`` (of several classes a text: the share of texts with all of them right and none wrong),
        ``macro_f1`` over the classes that are true or were given anywhere; for several classes a text ``micro_f1`` and
        ``class_counts``, for each class of how many texts it is true, was given, and both; otherwise ``confusion``:
        triples of true class, given class and number of texts.
    """
    return _compared(_marks(examples, found, classes), classes)


def _marks(examples: Sequence[Example], found: numpy.ndarray, classes: Classes) -> numpy.ndarray:
    """Of each text the number of its class and of the one given; of several which it has, then which are given."""
    import numpy

    if not classes.multi:
        return numpy.stack([[one.labels[0] for one in examples], found.argmax(1)], 1)
    own = numpy.zeros(found.shape, dtype=int)
    for row, example in enumerate(examples):
        own[row, list(example.labels)] = 1
    return numpy.concatenate([own, found >= THRESHOLD], 1)


def _compared(marks: numpy.ndarray, classes: Classes) -> dict[str, Any]:
    import numpy
    from sklearn.metrics import accuracy_score, f1_score

    if not classes.multi:
        truth, given = marks.T.tolist()
        return {
            "accuracy": float(accuracy_score(truth, given)),
            "macro_f1": float(f1_score(truth, given, average="macro", zero_division=0)),
            "confusion": [[*pair, count] for pair, count in sorted(Counter(zip(truth, given, strict=True)).items())],
        }
    own, marked = numpy.split(marks, 2, axis=1)
    seen = numpy.flatnonzero((own | marked).any(0))
    return {
        "accuracy": float(accuracy_score(own, marked)),
        "macro_f1": float(f1_score(own, marked, labels=seen, average="macro", zero_division=0)) if len(seen) else 1.0,
        "micro_f1": float(f1_score(own, marked, average="micro", zero_division=1.0)),
        "class_counts": numpy.stack([own.sum(0), marked.sum(0), (own & marked).sum(0)], 1).tolist(),
    }


def _marks_of(classes: Classes, logits: torch.Tensor, examples: Sequence[Example]) -> torch.Tensor:
    import torch

    return torch.from_numpy(_marks(examples, probabilities(logits.cpu(), classes), classes))


def _numbers(classes: Classes, marks: torch.Tensor) -> dict[str, float]:
    """The metrics that are numbers."""
    found = _compared(marks.long().cpu().numpy(), classes)
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _cross_entropy(logits: torch.Tensor, examples: Sequence[Example]) -> torch.Tensor:
    import torch

    from peft_nb.training.packing import sent

    wanted = sent(torch.tensor([one.labels[0] for one in examples]), logits.device)
    return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")


def _binary_cross_entropy(logits: torch.Tensor, examples: Sequence[Example]) -> torch.Tensor:
    import torch

    from peft_nb.training.packing import sent

    own = torch.zeros(logits.shape)
    for row, example in enumerate(examples):
        own[row, list(example.labels)] = 1
    own = sent(own, logits.device)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, own, reduction="none").mean(1).sum()


def _by_class(ours: torch.Tensor, theirs: torch.Tensor, example: Any) -> Counts:
    """Compare what two models say of a text that has one class."""
    from peft_nb.evaluation.agreement import Counts, divergence

    losses = [-one.log_softmax(-1)[list(example.labels)].sum() for one in (ours, theirs)]
    same = float(ours.argmax() == theirs.argmax())
    return Counts(1, divergence(ours, theirs), same, float(losses[0] - losses[1]), 1)


def _by_classes(ours: torch.Tensor, theirs: torch.Tensor, example: Any) -> Counts:
    """Compare what two models say of a text that can have several: each class is a question of its own, yes or no."""
    import torch

    from peft_nb.evaluation.agreement import Counts, divergence

    marked = torch.zeros_like(ours)
    marked[list(example.labels)] = 1.0
    ours, theirs = (torch.stack([one, torch.zeros_like(one)], -1) for one in (ours, theirs))
    truth = torch.stack([marked, 1 - marked], -1)
    losses = [-(truth * one.log_softmax(-1)).sum() for one in (ours, theirs)]
    same = float((ours.argmax(-1) == theirs.argmax(-1)).all())
    return Counts(1, divergence(ours, theirs), same, float(losses[0] - losses[1]), 1)


def _with_share(label: Any, share: Any) -> str:
    pairs = zip(label, share, strict=True) if isinstance(label, list) else [(label, share)]
    return ", ".join(f"{name} ({probability:.0%})" for name, probability in pairs)
