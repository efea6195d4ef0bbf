"""What a model writes down of clips, greedily, and how far that is from what is said in them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from peft_nb.data.audio.encoding import prompt_of
from peft_nb.errors import DataError

AT_ONCE = 16  # clips
RESAMPLES = 1_000
MISSING = "jiwer, which compares transcripts, is not installed; run: pip install 'peft_nb[audio]'"


def transcribe(
    model: Any,
    objective: Any,
    examples: Sequence[Any],
    device: torch.device,
    heed: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Let a model write down clips, each token the likeliest, as its `generate` does without times.

    Parameters
    ----------
    model : peft.PeftModel
        A speech model in evaluation mode.
    objective : SpeechObjective
        What hears the clips; installed, it keeps what a frozen encoder made of them.
    examples : sequence of Example
        The clips; of their tokens only the prompt is looked at.
    device : torch.device
        Where the model is.
    heed : callable
        Called before every token; what it raises ends the work.

    Returns
    -------
    list of list of int
        The tokens of each text, without prompt and end.
    """
    found: dict[int, list[int]] = {}
    lengths = {place: len(prompt_of(one)) for place, one in enumerate(examples)}
    for length in sorted({*lengths.values()}):
        places = [place for place, own in lengths.items() if own == length]
        for start in range(0, len(places), AT_ONCE):
            part = places[start : start + AT_ONCE]
            written = _written(model, objective, [examples[place] for place in part], device, heed)
            found |= dict(zip(part, written, strict=True))
    return [found[place] for place in range(len(examples))]


@torch.inference_mode()
def _written(
    model: Any, objective: Any, examples: Sequence[Any], device: torch.device, heed: Callable[[], None]
) -> list[list[int]]:
    base = model.get_base_model()
    told, end = base.generation_config, base.config.eos_token_id
    always, first = ((getattr(told, name, None) or []) for name in ("suppress_tokens", "begin_suppress_tokens"))
    given = torch.tensor([list(prompt_of(one)) for one in examples]).to(device)
    length, ids = given.shape[1], given
    most = getattr(told, "max_length", None) or base.config.max_target_positions
    inputs = objective.heard(model, examples, device)
    done, cache = torch.zeros(len(examples), dtype=torch.bool, device=device), None
    while ids.shape[1] < min(most, base.config.max_target_positions) and not done.all():
        heed()
        out = model(**inputs, decoder_input_ids=given, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        inputs = {"encoder_outputs": (out.encoder_last_hidden_state,)} if "input_features" in inputs else inputs
        logits = out.logits[:, -1].float()
        logits[:, [*always, *(first if ids.shape[1] == length else ())]] = -torch.inf
        given = logits.argmax(-1, keepdim=True).masked_fill(done[:, None], end)
        done = done | (given[:, 0] == end)
        ids = torch.cat((ids, given), 1)
    written = ids[:, length:].tolist()
    return [one[: one.index(end)] if end in one else one for one in written]


def normalised(text: str) -> str:
    """Lower a text's case, and drop punctuation and extra space; letters, marks, digits and signs for words stay."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (sign if unicodedata.category(sign)[0] in "LMN" or sign in "'’" else " " for sign in folded)
    return " ".join(re.sub(r"['’]", "", "".join(kept)).split())


@dataclass(frozen=True)
class Errors:
    """Wrong, missing and extra words (or characters) of each text, and how many it has.

    Attributes
    ----------
    wrong, units : numpy.ndarray
        One number a text.
    """

    wrong: numpy.ndarray
    units: numpy.ndarray

    @property
    def rate(self) -> float:
        """Wrong ones of all texts over all there are, the usual error rate of a set; may be above 1."""
        return float(self.wrong.sum() / max(1, self.units.sum()))

    @property
    def each(self) -> numpy.ndarray:
        """The rate of each text."""
        found: numpy.ndarray = self.wrong / numpy.maximum(self.units, 1)
        return found

    def interval(self, seed: int) -> list[float]:
        """95 % bootstrap interval of the rate over the texts (percentiles of 1,000 resamples)."""
        drawn = numpy.random.default_rng(seed).integers(len(self.wrong), size=(RESAMPLES, len(self.wrong)))
        rates = self.wrong[drawn].sum(1) / numpy.maximum(self.units[drawn].sum(1), 1)
        low, high = numpy.percentile(rates, [2.5, 97.5]).tolist()
        return [low, high]


def errors(references: Sequence[str], answers: Sequence[str], by: str = "words") -> Errors:
    """Count the errors of transcripts by Levenshtein alignment (jiwer).

    Parameters
    ----------
    references, answers : sequence of str
        What is said, and what was written down.
    by : {"words", "characters"}
        What is counted.

    Returns
    -------
    Errors
        Of a text of nothing, everything written down is wrong.

    Raises
    ------
    DataError
        jiwer is not installed.
    """
    try:
        import jiwer
    except ImportError:
        raise DataError(MISSING) from None
    process = jiwer.process_words if by == "words" else jiwer.process_characters
    wrong, units = list[int](), list[int]()
    for reference, answer in zip(references, answers, strict=True):
        if not reference.strip():
            units.append(0)
            wrong.append(len(answer.split()) if by == "words" else len(answer))
            continue
        found = process(reference, answer)
        wrong.append(found.substitutions + found.deletions + found.insertions)
        units.append(found.substitutions + found.deletions + found.hits)
    return Errors(numpy.array(wrong), numpy.array(units))
