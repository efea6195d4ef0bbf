"""What a classifier says: probabilities for texts, and how often they are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy
import torch

from peft_nb.data.examples import Example
from peft_nb.data.labels import Classes
from peft_nb.data.rendering import tokens
from peft_nb.training.classification import Classifying
from peft_nb.training.packing import micro_batches

if TYPE_CHECKING:
    import pandas

THRESHOLD = 0.5  # of a probability, above which a text that can have several classes has one
BUDGET = 4096  # tokens at once where nothing is kept for a backward pass
COLUMNS = ("text", "label", "probability")


def probabilities(
    model: torch.nn.Module, objective: Classifying, examples: Sequence[Any], device: torch.device, budget: int = BUDGET
) -> numpy.ndarray:
    """Compute the probability of every class for every text.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier in evaluation mode, with the path installed.
    objective : Classifying
        How a micro-batch becomes logits.
    examples : sequence of Example
        The texts; their labels are not looked at.
    device : torch.device
        Where the model is.
    budget : int
        Tokens at once; default 4096.

    Returns
    -------
    numpy.ndarray
        Shape ``(texts, classes)``, float32, in the order of the examples. A row adds up to 1 unless a text can have
        several classes.
    """
    order = sorted(range(len(examples)), key=lambda number: -len(examples[number].ids))
    cut = micro_batches([examples[number] for number in order], budget, objective.padded)
    with torch.inference_mode():
        logits = torch.cat([objective.logits(model, micro, device) for micro in cut])
        found = (logits.sigmoid() if objective.multi else logits.softmax(-1)).cpu().numpy()
    return found[numpy.argsort(order)]


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
        ``macro_f1`` over the classes that are true or were given anywhere, for several classes a text ``micro_f1``,
        and otherwise ``confusion``: triples of true class, given class and number of texts.
    """
    from sklearn.metrics import accuracy_score, f1_score

    if not classes.multi:
        truth, given = [one.labels[0] for one in examples], found.argmax(1).tolist()
        return {
            "accuracy": float(accuracy_score(truth, given)),
            "macro_f1": float(f1_score(truth, given, average="macro", zero_division=0)),
            "confusion": [[*pair, count] for pair, count in sorted(Counter(zip(truth, given, strict=True)).items())],
        }
    own, marked = numpy.zeros(found.shape, dtype=int), (found >= THRESHOLD).astype(int)
    for row, example in enumerate(examples):
        own[row, list(example.labels)] = 1
    seen = numpy.flatnonzero((own | marked).any(0))
    return {
        "accuracy": float(accuracy_score(own, marked)),
        "macro_f1": float(f1_score(own, marked, labels=seen, average="macro", zero_division=0)) if len(seen) else 1.0,
        "micro_f1": float(f1_score(own, marked, average="micro", zero_division=1.0)),
    }


def predict(model: Any, tokenizer: Any, texts: Sequence[str], classes: Classes, max_length: int) -> pandas.DataFrame:
    """Classify texts.

    Parameters
    ----------
    model : peft.PeftModel
        A classifier in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    texts : sequence of str
        What to classify.
    classes : Classes
        What a text can be.
    max_length : int
        Tokens at which a longer text is cut, as in training.

    Returns
    -------
    pandas.DataFrame
        One row a text: ``text``, ``label``, ``probability``, and the probability of each class in a column of its
        name, ``p(name)`` where that is one of the first three. Where a text can have several classes, ``label`` and
        ``probability`` are lists of those with 0.5 or more.
    """
    import pandas

    encoded = [Example.whole(ids) for ids in tokens(tokenizer, texts, max_length)]
    objective = Classifying(tokenizer.pad_token_id, classes.multi)
    found = numpy.zeros((0, len(classes.names)), dtype=numpy.float32)
    if encoded:
        found = probabilities(model, objective, encoded, model.device)
    if classes.multi:
        marked = [numpy.flatnonzero(row >= THRESHOLD) for row in found]
        label: list[Any] = [[classes.names[number] for number in own] for own in marked]
        probability: list[Any] = [row[own].tolist() for row, own in zip(found, marked, strict=True)]
    else:
        label, probability = [classes.names[number] for number in found.argmax(1)], found.max(1).tolist()
    each = [f"p({name})" if name in COLUMNS else name for name in classes.names]
    main = pandas.DataFrame(dict(zip(COLUMNS, (list(texts), label, probability), strict=True)))
    return pandas.concat([main, pandas.DataFrame(found, columns=each)], axis=1)
