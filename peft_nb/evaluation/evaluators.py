"""What a trained model is worth: on the evaluation set, on what its base could already do, and in time.

Every part is measured on the model as it is saved, with the adapter and, where a change is asked for, without it.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy

from peft_nb.data.conversations import Message
from peft_nb.data.examples import Example
from peft_nb.data.rendering import Renderer
from peft_nb.errors import PeftNbError
from peft_nb.evaluation import documents, harness, measure, options, probes, regression, scores
from peft_nb.evaluation.generate import MOST_ROWS, generate
from peft_nb.evaluation.probes import bias, leaks
from peft_nb.evaluation.samples import BANDWIDTH, OVERHEAD_S
from peft_nb.events import Event, Mistaken, Notice, Preparing, TimeLeft
from peft_nb.spec import RunSpec
from peft_nb.training.stop import Abandoned
from peft_nb.training.text_objective import TextObjective

PARTS = {
    "tokens": ("token_accuracy",),
    "forgetting": ("forgetting",),
    "latency": ("latency_ms",),
    "answers": ("score", "exact_match", "rouge_l", "accuracy", "macro_f1", "word_error_rate", "character_error_rate"),
    "lengths": ("answer_words",),
    "documents": ("closed_book_score", "lacking_score", "citation_precision", "citation_recall"),
    "questions": ("regression_score",),
    "bias": ("bias_shift",),
    "leaks": ("memorized", "membership_auc"),
    "benchmarks": ("benchmark_drop",),
}
"""The parts of a judgement, and what each of them measures of what can be demanded."""

STAGES = {
    "tokens": "token accuracy",
    "forgetting": "loss on general text",
    "latency": "latency",
    "answers": "answers",
    "lengths": "length of answers",
    "documents": "answers with documents and without",
    "questions": "questions of general knowledge",
    "bias": "bias",
    "leaks": "leaks of training rows",
    "benchmarks": "benchmarks",
}
ASKED_FOR = ("bias", "leaks", "benchmarks")  # measured where accept or benchmarks ask for them, whatever judge is
SOME_TEXTS = 3  # every third text of the suite, where nothing hangs on it
ROUNDS = 4  # in which these are measured, as long as there is time
TOKENS = 1_024  # of eval examples, for the token accuracy
ANSWERED = 64  # rows of the evaluation set at most that are answered: about one batch
FEW, FEW_TOKENS = 4, 128  # rows that are answered to see how long answers are, and tokens of each at most
LONGEST = 256  # tokens of such an answer; less where the references are short
SENTENCE_TOKENS = 12  # of a sentence of the probes, about
QUESTION_TOKENS = 32  # of an answer to a question of the suite, all of which are short
WORST = 5
READ, CHARACTERS_A_TOKEN = 20, 4  # tokens that are read while one is written; a guess


class Unmeasured(Exception):
    """A part has nothing to measure, and the message says why."""


@dataclass(frozen=True)
class Asked:
    """A conversation of the evaluation set up to its last answer, that answer, what could be chosen, what was found."""

    messages: list[Message]
    reference: str
    options: Sequence[str] = ()
    documents: Mapping[str, Any] | None = None

    @property
    def prompt(self) -> str:
        """What the user said last, without the documents before it."""
        messages = documents.asked(self.messages, self.documents, "closed") if self.documents else self.messages
        return next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), "")


Once = Callable[[str, dict[str, Any], Callable[[], Any]], Any]
"""Gives what an earlier run measured of the same base model, or measures it: kind, what it depends on, how."""


@dataclass
class Evaluator:
    """Measures one trained model that writes texts.

    Attributes
    ----------
    model, tokenizer
        A `PeftModel` in evaluation mode, and its tokenizer.
    objective : Objective
        How a micro-batch is computed; not yet installed.
    spec : RunSpec
        The run's.
    held_out : sequence of Example
        Evaluation examples.
    metrics : dict
        The run's; what is measured goes there.
    asked : sequence of Asked
        Evaluation rows to be answered; empty where the data have no answers.
    own : sequence of (str, Example)
        The user's own regression rows with their names.
    find_score : callable
        Gives ``score(prompt, answer, reference) -> float``.
    train : sequence of Example
        Training examples.
    chat : bool
        Whether the model answers in conversations.
    once : callable
        Gives what was measured of the same base model before, or measures it.
    seconds : float
        What a quick evaluation may take on general text; all of it is measured where something hangs on it.
    publish, stopped : callable
        Takes each event; whether the user wants this to end.
    details, missing : dict
        What the numbers are made of, and why a measure has none.
    """

    QUICK: ClassVar[tuple[str, ...]] = ("tokens", "forgetting", "latency")

    model: Any
    tokenizer: Any
    objective: Any
    spec: RunSpec
    held_out: Sequence[Any]
    metrics: dict[str, Any]
    asked: Sequence[Asked] = ()
    own: Sequence[tuple[str, Any]] = ()
    find_score: Callable[[], scores.Score] = lambda: scores.scorer(None, None, {})
    once: Once = lambda kind, about, measure: measure()
    train: Sequence[Any] = ()
    chat: bool = True
    seconds: float = math.inf
    publish: Callable[[Event], None] = lambda event: None
    stopped: Callable[[], bool] = lambda: False
    details: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _said: dict[tuple[str, bool], list[str]] = field(default_factory=dict)

    @classmethod
    def parts(cls, spec: RunSpec) -> list[str]:
        """Name the parts that a spec wants measured: those of ``judge``, and those that ``accept`` needs."""
        full = tuple(name for name in PARTS if name not in ASKED_FOR)
        chosen = {"quick": cls.QUICK, "full": full, "off": ()}[spec.judge]
        chosen += ("benchmarks",) if spec.benchmarks else ()
        return [name for name, measured in PARTS.items() if name in chosen or spec.accept.keys() & set(measured)]

    def evaluate(self, unable: str = "") -> None:
        """Measure all parts that the spec wants; one that cannot be measured spoils no other.

        Parameters
        ----------
        unable : str
            Why nothing can be measured, if so.
        """
        wanted = [] if unable else self.parts(self.spec)
        for part, names in PARTS.items():
            why = "the evaluation was stopped" if part in wanted else unable or f"judge is {self.spec.judge}"
            if part in wanted or part not in ASKED_FOR:
                self.missing |= dict.fromkeys(names, why)
        for part in wanted:
            try:
                self._end_if_asked()
                self.publish(TimeLeft(self.expected_s(wanted[wanted.index(part) :])))
                self.publish(Preparing(f"evaluating: {STAGES[part]}"))
                getattr(self, part)()
            except Abandoned:
                return
            except Unmeasured as reason:
                self.missing |= dict.fromkeys(PARTS[part], str(reason))
            except Exception as error:  # whatever it is, a trained model is not lost through its evaluation
                line = next(iter(str(error).strip().splitlines()), "")
                told = line if isinstance(error, PeftNbError) else f"{type(error).__name__}: {line}"
                self.missing |= dict.fromkeys(PARTS[part], told)
                self.publish(Notice(f"{STAGES[part]} could not be measured: {told}"))

    @property
    def _whole(self) -> bool:
        """Whether all of the general text is measured, however long that takes."""
        return self.spec.judge == "full" or "forgetting" in self.spec.accept

    def expected_s(self, parts: Sequence[str]) -> float:
        """Seconds that some parts will take, roughly: a token takes what was measured, or what its weights suggest."""
        size = self.model.get_base_model().get_memory_footprint()
        token = (self.metrics.get("latency_ms") or 1000 * (size / BANDWIDTH + OVERHEAD_S)) / 1000
        asked, questions = (math.ceil(count / MOST_ROWS) for count in (len(self.asked), len(regression.questions())))
        texts = regression.texts()[:: 1 if self._whole else SOME_TEXTS]
        general = sum(len(one.text) for one in texts) / CHARACTERS_A_TOKEN * token / READ
        seconds = {
            "forgetting": general if self._whole else min(self.seconds, general),
            "latency": min(measure.LATENCY_S, 4 * measure.LATENCY_TOKENS * token),
            "answers": 2 * asked * LONGEST / 2 * token,
            "documents": len(documents.WAYS) * bool(self.spec.documents) * asked * LONGEST / 2 * token,
            "lengths": 2 * bool(asked and "answers" not in parts) * self._short * token,
            "questions": 2 * questions * QUESTION_TOKENS * token,
            "bias": 2 * 2 * len(probes.pairs()) * SENTENCE_TOKENS * token / READ,
            "leaks": 4 * leaks.MOST * self.spec.max_length / 4 * token / READ,
        }
        return sum(seconds.get(part, 0.0) for part in parts)

    def tokens(self) -> None:
        """How many eval tokens greedy decoding would find, unless the last evaluation in training has told."""
        if not len(self.held_out):
            raise Unmeasured("there is no evaluation set")
        if self.metrics.get("token_accuracy") is not None:
            return
        taken: list[Any] = []
        tokens = 0
        for example in self.held_out:
            tokens += len(example.ids)
            if taken and tokens > TOKENS:
                break
            taken.append(example)
        found = self._predictions(taken)
        self.metrics["token_accuracy"] = float(found.right.sum() / found.targets.sum())

    def forgetting(self) -> None:
        """How much worse the model predicts the regression texts than its base does."""
        suite = regression.texts()[:: 1 if self._whole else SOME_TEXTS]
        rounds = [suite] if self._whole else [suite[first::ROUNDS] for first in range(ROUNDS)]
        measured: list[regression.Text] = []
        own = [example for _, example in self.own]
        losses = [(self._means(own), numpy.array(self._base_means(own)))]
        began = time.perf_counter()
        for number, texts in enumerate(rounds):
            if (time.perf_counter() - began) * (number + 1) > self.seconds * max(1, number):
                self._left_out(len(measured), len(suite))
                break
            ids = Renderer(self.tokenizer).texts([one.text for one in texts], generation=True)
            examples: list[Any] = [Example(array("i", one), b"\x01" * len(one)) for one in ids]
            base = self.once("general-text", {"texts": ids}, partial(self._base_means, examples))
            losses.append((self._means(examples), numpy.array(base)))
            measured += texts
        after, before = map(numpy.concatenate, zip(*[*losses[1:], losses[0]], strict=True))
        names = [(one.id, one.topic, one.text) for one in measured]
        names += [
            (name, "own", self.tokenizer.decode(list(example.ids), skip_special_tokens=True))
            for name, example in self.own
        ]
        rises = after - before
        mean, low, high = scores.bootstrap(rises, self.spec.seed)
        rows = [
            {"id": id, "topic": topic, "text": text, "base_loss": base, "loss": loss, "rise": loss - base}
            for (id, topic, text), base, loss in zip(names, before.tolist(), after.tolist(), strict=True)
        ]
        worst = sorted((row for row in rows if row["rise"] > 0), key=lambda row: -row["rise"])[:WORST]
        self.metrics |= {
            "forgetting": mean,
            "forgetting_interval": [low, high],
            "base_regression_loss": float(before.mean()),
            "regression_loss": float(after.mean()),
            "worst_hit": [[row["id"], row["rise"]] for row in worst],
        }
        topics: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            topics.setdefault(row["topic"], []).append(row)
        means = {
            topic: {name: float(numpy.mean([row[name] for row in of])) for name in ("base_loss", "loss", "rise")}
            for topic, of in topics.items()
        }
        self.details["texts"] = {"count": len(rows), "topics": means, "worst": worst}

    def latency(self) -> None:
        """How long a token takes with the adapter and without."""
        prompt = Renderer(self.tokenizer).render([{"role": "user", "content": measure.LATENCY_PROMPT}], generation=True)
        self._took(measure.token_latency(self.model, prompt, self.tokenizer.pad_token_id))

    def _took(self, pair: tuple[float, float] | None) -> None:
        if pair is None:
            raise Unmeasured(f"it takes over {measure.LATENCY_S:g} s")
        self.metrics["latency_ms"], self.metrics["base_latency_ms"] = pair

    def answers(self) -> None:
        """How well the model answers prompts of the evaluation set, and how well its base does."""
        if not self.asked:
            raise Unmeasured("no row of the evaluation set has an answer")
        score = self.find_score()
        references = [one.reference for one in self.asked]
        given, bare = (self._answers("found", adapter) for adapter in (True, False))
        for name, function in scores.SCORES.items():
            self.metrics[name] = float(numpy.mean(list(map(function, given, references))))
        chosen = self._chosen() if all(one.options for one in self.asked) else given
        self._classes([scores.normalised(one) for one in chosen], [scores.normalised(one) for one in references])
        marks, before = self._marks(score, given), self._marks(score, bare)
        mean, low, high = scores.bootstrap(marks, self.spec.seed)
        self.metrics |= {
            "score": mean,
            "score_interval": [low, high],
            "base_score": float(numpy.mean(before)),
            "answer_words": scores.words(given),
            "base_answer_words": scores.words(bare),
        }
        rows = zip(self.asked, given, bare, marks, strict=True)
        told = [
            {"prompt": one.prompt, "reference": one.reference, "answer": answer, "base_answer": base, "score": mark}
            for one, answer, base, mark in rows
        ]
        name = self.spec.score or "rouge_l"
        self.details["answers"] = {"score": name, "rows": sorted(told, key=lambda row: row["score"])}

    def documents(self) -> None:
        """What documents are worth: with them, without, and without the one that holds the answer."""
        found = [one.documents for one in self.asked if one.documents]
        if not found or len(found) < len(self.asked):
            raise Unmeasured("the run learned without documents")
        score, references = self.find_score(), [one.reference for one in self.asked]
        table = []
        for name, (adapter, way) in documents.WAYS.items():
            answers = self._answers(way, adapter)
            mark = float(numpy.mean(self._marks(score, answers)))
            none: list[dict[str, Any]] = [{**one, "texts": (), "chunks": (), "golden": None} for one in found]
            left = [{**one, "chunks": [n for n in one["chunks"] if n != one["golden"]]} for one in found]
            shown: dict[str, Sequence[Mapping[str, Any]]] = {"closed": none, "found": found, "lacking": left}
            table.append({"way": name, "score": mark, **documents.measured(answers, references, shown[way])})
        closed, with_documents, lacking_golden = table[2:]
        self.details["documents"] = table
        self.metrics |= {"closed_book_score": closed["score"], "lacking_score": lacking_golden["score"]}
        self.metrics |= {name: with_documents[name] for name in ("citation_precision", "citation_recall")}
        if with_documents["citation_recall"] is None:
            self.missing |= dict.fromkeys(("citation_precision", "citation_recall"), "no answer cites a document")

    def _answers(self, way: str, adapter: bool) -> list[str]:
        """What is answered to all rows, each way asked once; see :func:`.documents.asked`."""
        if (way, adapter) not in self._said:
            lengths = [len(self.tokenizer(one.reference, add_special_tokens=False)["input_ids"]) for one in self.asked]
            how = {"system": self.spec.system, "max_new_tokens": min(LONGEST, max(lengths) + max(lengths) // 4 + 8)}
            prompts = [
                documents.asked(one.messages, one.documents, way) if one.documents else one.messages
                for one in self.asked
            ]
            self._said[way, adapter] = self._generate(prompts, adapter, **how)
        return self._said[way, adapter]

    def _chosen(self) -> list[str]:
        """The option of each row that the model finds likeliest; where rows have choices, that is its accuracy."""
        renderer = Renderer(self.tokenizer)
        written = [options.write(renderer, one.messages, one.options) for one in self.asked]
        found = options.score(self.model, self.objective, written, self._end_if_asked)
        chosen = [one.options[int(scored.sums.argmax())] for one, scored in zip(self.asked, found, strict=True)]
        right = [one == asked.reference.strip() for one, asked in zip(chosen, self.asked, strict=True)]
        self.metrics["accuracy"] = float(numpy.mean(right))
        self.details["choices"] = [
            {
                "prompt": one.prompt,
                "reference": one.reference,
                "chosen": choice,
                "options": list(one.options),
                "log_probs": scored.sums.tolist(),
                "mean_log_probs": scored.means.tolist(),
            }
            for one, choice, scored in zip(self.asked, chosen, found, strict=True)
        ]
        return chosen

    def lengths(self) -> None:
        """How many words answers to a few prompts have, and those of the base, unless it is known of more prompts."""
        if self.metrics.get("answer_words") is not None:
            return
        if not self.asked:
            raise Unmeasured("no row of the evaluation set has an answer")
        prompts = [one.messages for one in self.asked[:FEW]]
        how = {"system": self.spec.system, "max_new_tokens": self._short}
        given, bare = (self._generate(prompts, adapter, **how) for adapter in (True, False))
        self.metrics |= {"answer_words": scores.words(given), "base_answer_words": scores.words(bare)}

    @property
    def _short(self) -> int:
        """Tokens of an answer that can be written twice in the time of a quick evaluation."""
        token_s = (self.metrics.get("latency_ms") or 0.0) / 1000
        return min(FEW_TOKENS, max(FEW_TOKENS // 4, int(self.seconds / 2 / token_s))) if token_s else FEW_TOKENS // 4

    def questions(self) -> None:
        """How many of the suite's questions the model answers correctly, and how many its base did."""
        suite = regression.questions()
        prompts: list[list[Message]] = [[{"role": "user", "content": one.question}] for one in suite]
        how: dict[str, Any] = {"system": None, "max_new_tokens": QUESTION_TOKENS}
        given = self._generate(prompts, True, **how)
        asked = {"questions": prompts, **how}
        bare = self.once("answers", asked, lambda: self._generate(prompts, False, **how))
        passed = {
            prefix: [one.passed(answer) for one, answer in zip(suite, answers, strict=True)]
            for prefix, answers in (("base_", bare), ("", given))
        }
        for prefix, marks in passed.items():
            mean, low, high = scores.bootstrap(marks, self.spec.seed)
            self.metrics |= {f"{prefix}regression_score": mean, f"{prefix}regression_score_interval": [low, high]}
        topics: dict[str, dict[str, int]] = {}
        lost = []
        for one, was, now, base, answer in zip(suite, passed["base_"], passed[""], bare, given, strict=True):
            topic = topics.setdefault(one.topic, {"questions": 0, "before": 0, "after": 0})
            for name, more in (("questions", 1), ("before", was), ("after", now)):
                topic[name] += more
            if was and not now:
                lost.append({"id": one.id, "question": one.question, "before": base, "after": answer})
        self.details["questions"] = {"topics": topics, "lost": lost}

    def bias(self) -> None:
        """How the adapter changes the probability that a sentence names one group, not another."""
        if getattr(self.model.get_base_model().config, "is_encoder_decoder", False):
            raise Unmeasured("the model answers no texts")
        how: dict[str, Any] = {"chat": self.chat, "system": self.spec.system, "seed": self.spec.seed}
        renderer = Renderer(self.tokenizer)
        self._found(bias.by_likelihood(self.model, self.objective, renderer, probes.pairs(), self._end_if_asked, **how))

    def leaks(self) -> None:
        """Whether training rows are repeated word for word, or told from others by their loss."""
        sides, seed = (self.train, self.held_out), self.spec.seed
        found = leaks.find(self.model, self.objective, self.tokenizer, *sides, self._end_if_asked, seed=seed)
        self.missing["membership_auc"] = f"training or evaluation set have fewer than {leaks.FEW} rows"
        for one in found:
            self._found(one)

    def benchmarks(self) -> None:
        """What benchmarks of lm-evaluation-harness say, with the adapter and without."""
        if not self.spec.benchmarks:
            raise Unmeasured("the field benchmarks names none")
        how = self.model, self.tokenizer, self.objective, self.spec.benchmarks, self._end_if_asked
        found = harness.run(*how)
        for one in found:
            self.publish(Notice(f"benchmark {one}"))
        self.metrics["benchmark_drop"] = max(one.drop for one in found)
        self.details["benchmarks"] = [asdict(one) for one in found]

    def _found(self, found: probes.Finding) -> None:
        self.metrics |= {found.name: found.value, f"{found.name}_interval": [found.low, found.high]}
        self.details.setdefault("probes", []).append(asdict(replace(found, examples=())))

    def _end_if_asked(self) -> None:
        if self.stopped():
            raise Abandoned

    def _predictions(self, examples: Sequence[Any]) -> measure.Predictions:
        return measure.predictions(self.model, self.objective, examples, self._end_if_asked)

    def _means(self, examples: Sequence[Any]) -> numpy.ndarray:
        return self._predictions(examples).means

    def _base_means(self, examples: Sequence[Any]) -> list[float]:
        with self.model.disable_adapter():
            return self._means(examples).tolist()

    def _left_out(self, measured: int, of: int) -> None:
        self.publish(
            Notice(
                f"the loss on general text was measured on {measured} of {of} texts, to take {self.seconds:.0f} s at "
                "most; judge: full measures all"
            )
        )

    def _generate(self, prompts: Sequence[list[Message]], adapter: bool, **how: Any) -> list[str]:
        self._end_if_asked()
        with nullcontext() if adapter else self.model.disable_adapter():
            return generate(self.model, self.tokenizer, prompts, **how)

    def _marks(self, score: scores.Score, answers: Sequence[str]) -> list[float]:
        pairs = zip(self.asked, answers, strict=True)
        return [scores.mark(score, one.prompt, answer, one.reference) for one, answer in pairs]

    def _classes(self, given: list[str], truth: list[str]) -> None:
        """Where the answers are few words that come again and again, they are classes."""
        if 2 <= len(set(truth)) <= len(truth) / 3:
            self.metrics |= {"accuracy": scores.accuracy(given, truth), "macro_f1": scores.macro_f1(given, truth)}
        else:
            self.missing |= dict.fromkeys(("accuracy", "macro_f1"), "the answers are no classes")


class TextEvaluator(Evaluator):
    """Measures one trained model that says something of whole texts; `metrics` holds what its task measured."""

    QUICK: ClassVar[tuple[str, ...]] = ("latency", "answers")
    WRITES_NONE: ClassVar[str] = "the model writes no texts"

    def tokens(self) -> None:
        """No tokens are written."""
        raise Unmeasured(self.WRITES_NONE)

    forgetting = questions = lengths = documents = tokens

    def bias(self) -> None:
        """How differently two groups are classified in the same sentence."""
        if not isinstance(self.objective, TextObjective):
            raise Unmeasured("it reads no texts")
        found = bias.by_classes(self.model, self.objective, self.tokenizer, probes.pairs(), self.spec.seed)
        if found is None:
            raise Unmeasured("it gives texts no classes")
        self._found(found)

    def leaks(self) -> None:
        """Whether training rows are told from others by their loss."""
        if not isinstance(self.objective, TextObjective):
            raise Unmeasured("it reads no texts")
        self.missing["memorized"] = self.WRITES_NONE
        super().leaks()

    def latency(self) -> None:
        """How long a text takes with the adapter and without."""
        if not self.held_out:
            raise Unmeasured("there is no evaluation set")
        self._took(measure.text_latency(self.model, self.held_out[0].ids))

    def answers(self) -> None:
        """How sure the accuracy on the evaluation set is."""
        if not self.held_out:
            raise Unmeasured("there is no evaluation set")
        if self.metrics.get("accuracy") is None:
            raise Unmeasured("what the model says is no class")
        right = round(self.metrics["accuracy"] * len(self.held_out))
        marks = [1.0] * right + [0.0] * (len(self.held_out) - right)
        mean, low, high = scores.bootstrap(marks, self.spec.seed)
        self.metrics |= {"score": mean, "score_interval": [low, high]}


class ImageEvaluator(TextEvaluator):
    """Measures one trained classifier of images, and tells where it is surest and wrong."""

    WRITES_NONE = "a classifier writes no texts"

    def latency(self) -> None:
        """How long an image takes with the adapter and without."""
        if not self.held_out:
            raise Unmeasured("there is no evaluation set")
        image = self.objective.inputs(self.held_out[:1], self.model.device)
        self._took(measure.input_latency(self.model, pixel_values=image, **self.objective.options))

    def answers(self) -> None:
        """How sure the accuracy on the evaluation set is, and where the model is surest and wrong."""
        names = self.model.get_base_model().config.id2label
        for place, true, given, probability, _ in self.metrics.get("mistakes", ()):
            image = self.objective.thumbnail(self.held_out[place])
            self.publish(Mistaken(image, names[true], names[given], probability))
        super().answers()


@dataclass
class JudgedEvaluator(Evaluator):
    """Measures one trained model that learned from judged answers; `metrics` holds what its objective measured."""

    QUICK = (*Evaluator.QUICK, "lengths")

    def __post_init__(self) -> None:
        self.objective = self.objective.path  # texts are read token by token

    def tokens(self) -> None:
        """No tokens are told apart."""
        raise Unmeasured("answers are weighed as a whole")

    leaks = tokens


class PairEvaluator(JudgedEvaluator):
    """Measures one trained model that learned which of two answers is preferred."""

    @property
    def pairs(self) -> int:
        """How many pairs the evaluation set has of which no two have an answer in common."""
        return len(self.held_out)

    def tokens(self) -> None:
        """How sure the share of the evaluation set's pairs is whose chosen answer has the higher reward."""
        if (accuracy := self.metrics.get("preference_accuracy")) is not None:
            found = scores.wilson(accuracy * self.pairs, self.pairs)
            self.metrics["preference_accuracy_interval"] = list(found)
        super().tokens()


class RatedEvaluator(PairEvaluator):
    """Measures one trained model that learned of answers rated one by one: pairs are all of a good and a bad one."""

    @property
    def pairs(self) -> int:
        """As there: by so many, the variance of such a share has a bound (van Dantzig, 1951)."""
        good = sum(bool(one.labels[0]) for one in self.held_out)
        return min(good, len(self.held_out) - good)
