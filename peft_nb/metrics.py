"""One table of all that a run measures: how it is called and said, which way is better, what it is.

Criteria, comparisons, the store, model cards and the reference read it; a task of its own adds to it with
:func:`register`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """One key of ``run.metrics``.

    Attributes
    ----------
    name : str
        The key.
    title : str
        What tables call it.
    unit : str
        How its value is said: ``loss``, ``rise``, ``score``, ``share``, ``count``, ``s``, ``ms``, ``MB``, or a unit to
        be written behind the number.
    better : {"low", "high"}, optional
        Which way is better; runs are compared by the metrics that say so.
    suite : str
        What it belongs to: ``held-out`` rows, ``regression`` texts, ``training``, ``cost`` or a suite of a task's own.
        Those of a suite are numbers that ``accept`` can demand, those of none are only told.
    help : str
        What it is, with its unit.
    base : str
        The metric that holds the value of the base model, if any does.
    on : tuple of str
        What two values have to be measured on alike to be comparable: the ``rows`` of the evaluation set, the
        ``tokens`` of one tokenizer, both or nothing.
    phrase : str
        What sentences call it where that is not its title.
    pane : str
        The chart in which it is drawn with others; empty for one of its own.
    hub : str
        The kind of metric that hubs know it as; empty where they have none.
    """

    name: str
    title: str = ""
    unit: str = ""
    better: Literal["low", "high"] | None = None
    suite: str = ""
    help: str = ""
    base: str = ""
    on: tuple[str, ...] = ()
    phrase: str = ""
    pane: str = ""
    hub: str = ""

    @property
    def best(self) -> Callable[..., Any]:
        """Chooses the best of several values, as :func:`min` and :func:`max` do."""
        return min if self.better == "low" else max


METRICS: dict[str, Metric] = {}
"""All metrics by name, in the order in which they are shown."""


def register(*metrics: Metric) -> None:
    """Add metrics to the table, or change them."""
    METRICS.update({metric.name: metric for metric in metrics})


def demandable() -> dict[str, Metric]:
    """Give the metrics that ``accept`` can demand."""
    return {name: metric for name, metric in METRICS.items() if metric.suite}


def comparable() -> dict[str, Metric]:
    """Give the metrics that runs are compared by."""
    return {name: metric for name, metric in METRICS.items() if metric.better}


def evaluated() -> dict[str, Metric]:
    """Give those of them that say what the model is worth, not what it took."""
    return {name: metric for name, metric in comparable().items() if metric.suite not in ("training", "cost")}


_ROWS, _TOKENS, _BOTH = ("rows",), ("tokens",), ("rows", "tokens")

register(
    Metric(
        *("eval_loss", "eval loss", "loss", "low", "held-out"),
        help="mean loss on the evaluation set, nats per token (per text when classifying)",
        base="base_eval_loss",
        on=_BOTH,
        hub="loss",
    ),
    Metric(
        *("perplexity", "perplexity", "score", "low", "held-out", "exponential of eval_loss"),
        on=_BOTH,
        hub="perplexity",
    ),
    Metric(
        *("token_accuracy", "token accuracy", "share", "high", "held-out"),
        help="share of the evaluation set's tokens that greedy decoding would choose",
        base="base_token_accuracy",
        on=_BOTH,
    ),
    Metric(
        *("score", "score", "score", "high", "held-out"),
        help="mean of the score that the spec names, over the answers of the evaluation set",
        base="base_score",
        on=_ROWS,
        phrase="score on the evaluation set",
    ),
    Metric(
        *("exact_match", "exact match", "share", "high", "held-out"),
        help="share of the evaluation set's answers equal to their reference",
        on=_ROWS,
        hub="exact_match",
    ),
    Metric(
        *("answer_words", "words per answer", "words"),
        help="mean words of the answers behind score; with judge: quick, to a few prompts and of 128 tokens at most",
        base="base_answer_words",
    ),
    Metric(
        *("rouge_l", "ROUGE-L", "score", "high", "held-out", "mean ROUGE-L on the evaluation set"),
        on=_ROWS,
        hub="rouge",
    ),
    Metric(
        *("accuracy", "accuracy", "share", "high", "held-out"),
        help="share of the evaluation texts whose labels, answers or likeliest choices are right",
        on=_ROWS,
        hub="accuracy",
    ),
    Metric(
        *("macro_f1", "macro-F1", "score", "high", "held-out", "mean F-measure over the classes"),
        on=_ROWS,
        hub="f1",
    ),
    Metric(
        *("micro_f1", "micro-F1", "score", "high", "held-out"),
        help="F-measure over all labels, where a text has several",
        on=_ROWS,
    ),
    Metric(
        *("forgetting", "loss change on general text", "rise", "low", "regression"),
        help="mean loss on general text minus that of the base model, nats per token; lower is better",
        on=_TOKENS,
    ),
    Metric(
        *("regression_score", "general questions right", "share", "high", "regression"),
        help="share of the general questions answered correctly",
        base="base_regression_score",
        phrase="score on general questions",
    ),
    Metric(
        *("recall_at_k", "recall of documents", "share", "high", "documents"),
        help="share of the evaluation questions whose golden chunk is among those retrieved, of those that have one",
        on=_ROWS,
    ),
    Metric(
        *("closed_book_score", "score without documents", "score", "high", "documents"),
        help="score of a run with documents when it is asked without any",
        on=_ROWS,
    ),
    Metric(
        *("lacking_score", "score without the golden chunk", "score", "high", "documents"),
        help="score of a run with documents when the golden chunk alone is left out",
        on=_ROWS,
    ),
    Metric(
        *("citation_precision", "citation precision", "share", "high", "documents"),
        help="share of the documents cited in answers that are the golden chunk",
        on=_ROWS,
    ),
    Metric(
        *("citation_recall", "citation recall", "share", "high", "documents"),
        help="share of the answers that cite the golden chunk where it was retrieved",
        on=_ROWS,
    ),
    Metric(
        *("bias_shift", "bias shift", "score", "low", "probe"),
        help="largest change by the adapter in the probability that a sentence names one group, not another, 0 to 1",
        on=_TOKENS,
    ),
    Metric(
        *("memorized", "memorized rows", "share", "low", "probe"),
        help="share of the training rows whose answer, 8 tokens or more, is repeated word for word",
        on=_ROWS,
    ),
    Metric(
        *("membership_auc", "membership AUC", "score", "low", "probe"),
        help="how well a low loss tells training rows from evaluation rows: 0.5 is chance, 1 always",
        on=_ROWS,
    ),
    Metric(
        *("benchmark_drop", "benchmark drop", "score", "low", "benchmarks"),
        help="largest fall of a benchmark's score from base to adapter; 0 where all falls may be noise",
        on=_TOKENS,
    ),
    Metric(
        *("train_loss", "train loss", "loss", "low", "training"),
        help="mean training loss of the last epoch, nats per token",
        on=_BOTH,
    ),
    Metric("steps", "steps", "count", None, "training", "optimizer steps taken"),
    Metric(
        *("supervised_tokens", "supervised tokens", "count", None, "training"),
        help="tokens that are learned, in one pass over the rows",
    ),
    Metric("trainable_parameters", "trainable parameters", "count", "low", "training", "parameters that are trained"),
    Metric(
        *("trainable_share", "trainable share", "share", "low", "training"),
        help="trainable parameters over all, 0 to 1",
    ),
    Metric(
        *("tokens_per_second", "speed", "tokens/s", None, "training"),
        help="tokens or patches learned from in a second; a prompt with several answers counts once in each group",
    ),
    Metric("train_seconds", "training time", "s", "low", "cost", "time spent on training, s"),
    Metric(
        "peak_memory_mb",
        "peak memory",
        "MB",
        "low",
        "cost",
        "highest memory while training, MB; a GPU's where there is one",
    ),
    Metric(
        *("adapter_mb", "adapter size", "MB", "low", "cost"),
        help="size of the saved adapter on disk, MB",
    ),
    Metric(
        *("latency_ms", "latency", "ms", "low", "cost"),
        help="median time per token (per text when classifying) with the adapter, ms",
        base="base_latency_ms",
    ),
    Metric("cpu_seconds", "CPU time", "s", None, "cost", "CPU time of the whole run, s"),
    Metric("gpu_seconds", "GPU time", "s", None, "cost", "time spent on training, times the number of GPUs, s"),
    Metric("energy_kwh", "energy", "kWh", None, "cost", "electricity that the machine took for the run, kWh"),
    Metric("co2_kg", "CO₂", "kg", None, "cost", "carbon dioxide of that electricity in the country named, kg"),
    Metric("wall_seconds", "duration", "s", None, "cost", "time from start to verdict, s"),
    *(
        Metric(name, help=help)
        for name, help in {
            "base_eval_loss": "eval_loss of the base model, before the first step",
            "base_latency_ms": "latency_ms of the base model",
            "base_regression_loss": "mean loss of the base model on general text, nats per token",
            "base_regression_score": "regression_score of the base model",
            "base_regression_score_interval": "its 95 % interval",
            "base_score": "score of the base model",
            "base_answer_words": "answer_words of the base model",
            "base_token_accuracy": "token_accuracy of the base model, before the first step",
            "bias_shift_interval": "95 % interval of bias_shift",
            "best_step": "step whose adapter was kept, where that is not the last one's",
            "class_counts": "where a text has several classes: of each, the texts that have it, are given it, and both",
            "confusion": "triples of true class, predicted class and number of texts",
            "criteria": "what became of each demand of accept",
            "eval_examples": "examples of the evaluation set",
            "examples": "training examples",
            "forecast_memory_mb": "peak memory that was estimated, MB",
            "forecast_seconds": "training time that was estimated, s",
            "forgetting_interval": "95 % interval of forgetting",
            "host_peak_memory_mb": "where peak_memory_mb is a GPU's: highest memory of the process while training, MB",
            "how": "of a combined run: how its adapter was made of others",
            "judge_seconds": "time spent on the evaluation after training, s",
            "membership_auc_interval": "95 % interval of membership_auc",
            "memorized_interval": "95 % interval of memorized",
            "parents": "of a combined run: the runs it was made of, and their weights",
            "path": "how batches were computed: padding-free or padded",
            "regression_loss": "mean loss on general text with the adapter, nats per token",
            "regression_score_interval": "95 % interval of regression_score",
            "score_interval": "95 % interval of score",
            "token_budget": "most tokens computed at once",
            "total_parameters": "parameters of base and adapter",
            "verdict": "passed or failed, and why",
            "worst_hit": "general texts with the largest increase of the loss, and that",
        }.items()
    ),
)
