"""What a model that writes down speech is worth: the errors of its transcripts, and what it lost of other speech."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy

from peft_nb.data.audio.encoding import prompt_of, sound
from peft_nb.data.prompts import spread
from peft_nb.evaluation import scores
from peft_nb.evaluation.evaluators import ANSWERED, WORST, Evaluator, Unmeasured
from peft_nb.evaluation.transcribe import Errors, errors, normalised, transcribe
from peft_nb.events import Transcribed

PLAYED = 8  # clips that are shown, those with the most errors
CLIP_S = 0.3  # seconds in which a clip is heard and written down, about


class SpeechEvaluator(Evaluator):
    """Measures one trained speech model; the texts of its clips lie in the examples."""

    QUICK: ClassVar[tuple[str, ...]] = ("tokens", "forgetting", "answers")

    def expected_s(self, parts: Sequence[str]) -> float:
        """Seconds that some parts will take, very roughly."""
        clips = len(self._clips) * ("answers" in parts) + len(self.own) * ("forgetting" in parts)
        return 2 * CLIP_S * clips

    def latency(self) -> None:
        """Texts are as long as what is said."""
        raise Unmeasured("a clip takes as long as its text has tokens")

    def lengths(self) -> None:
        """As of :meth:`latency`."""
        raise Unmeasured("the model writes down what is said")

    questions = lengths

    @property
    def _clips(self) -> list[Any]:
        """The evaluation clips that are written down: all where that was asked for."""
        most = len(self.held_out) if self.spec.judge == "full" else ANSWERED
        return [self.held_out[place] for place in spread(range(len(self.held_out)), most)]

    def answers(self) -> None:
        """How many words and characters of the evaluation clips are wrong, and how many were with the base."""
        if not self.held_out:
            raise Unmeasured("there is no evaluation set")
        examples = self._clips
        references = [self._text(one) for one in examples]
        with self.objective.installed(self.model):  # what a frozen encoder makes of clips serves both
            given, bare = (self._transcribed(examples, adapter) for adapter in (True, False))
        rates: dict[str, Errors] = {}
        for name, by, change in (
            ("word_error_rate", "words", normalised),
            ("character_error_rate", "characters", normalised),
            ("raw_word_error_rate", "words", str.strip),
            ("raw_character_error_rate", "characters", str.strip),
        ):
            right = list(map(change, references))
            rates[name] = errors(right, list(map(change, given)), by)
            before = errors(right, list(map(change, bare)), by)
            self.metrics |= {name: rates[name].rate, f"base_{name}": before.rate}
            self.metrics[f"{name}_interval"] = rates[name].interval(self.spec.seed)
        each = rates["word_error_rate"].each.tolist()
        rows = [
            {"prompt": f"clip {place}", "reference": reference, "answer": answer, "base_answer": base, "score": rate}
            for place, (reference, answer, base, rate) in enumerate(zip(references, given, bare, each, strict=True))
        ]
        self.details["answers"] = {"score": "word_error_rate", "rows": sorted(rows, key=lambda row: -row["score"])}
        for place in sorted(range(len(each)), key=lambda place: -each[place])[:PLAYED]:
            texts = references[place], given[place], bare[place]
            self.publish(Transcribed(sound(examples[place].signal), *texts, each[place]))

    def forgetting(self) -> None:
        """How much worse the model predicts the texts of the user's own other clips than its base does."""
        if not self.own:
            raise Unmeasured("there are no clips of another domain; name some: regression: folder")
        examples = [example for _, example in self.own]
        after, before = self._means(examples), numpy.array(self._base_means(examples))
        rises = after - before
        mean, low, high = scores.bootstrap(rises, self.spec.seed)
        rows = [
            {"id": name, "topic": "own", "text": self._text(one), "base_loss": was, "loss": now, "rise": now - was}
            for (name, one), was, now in zip(self.own, before.tolist(), after.tolist(), strict=True)
        ]
        worst = sorted((row for row in rows if row["rise"] > 0), key=lambda row: -row["rise"])[:WORST]
        self.metrics |= {
            "forgetting": mean,
            "forgetting_interval": [low, high],
            "base_regression_loss": float(before.mean()),
            "regression_loss": float(after.mean()),
            "worst_hit": [[row["id"], row["rise"]] for row in worst],
        }
        topics = {"own": {"base_loss": float(before.mean()), "loss": float(after.mean()), "rise": mean}}
        self.details["texts"] = {"count": len(rows), "topics": topics, "worst": worst}
        right = [normalised(self._text(one)) for one in examples]
        with self.objective.installed(self.model):
            for prefix, adapter in (("", True), ("base_", False)):
                written = list(map(normalised, self._transcribed(examples, adapter)))
                self.metrics[f"{prefix}regression_word_error_rate"] = errors(right, written).rate

    def _transcribed(self, examples: Sequence[Any], adapter: bool) -> list[str]:
        with nullcontext() if adapter else self.model.disable_adapter():
            found = transcribe(self.model, self.objective, examples, self.model.device, self._end_if_asked)
        return [self._decoded(ids) for ids in found]

    def _text(self, example: Any) -> str:
        return self._decoded(list(example.ids)[len(prompt_of(example)) :])

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
