from __future__ import annotations

import re
import struct
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest
from test_ui_status import EVIL, KNOWN, Balanced, training

from peft_nb import metrics
from peft_nb.events import Checkpointed, Evaluated, Notice, StatusChanged
from peft_nb.ui import summary
from peft_nb.ui.evaluation import labelled
from peft_nb.ui.view import RunView, replay

METRICS = {
    "train_loss": 0.41,
    "eval_loss": 0.61,
    "train_seconds": 179.0,
    "forecast_seconds": 170.0,
    "peak_memory_mb": 2990.0,
    "forecast_memory_mb": 3100.0,
}


def finished(task: str = "generation") -> RunView:
    view = replay([Evaluated(126, 0.61), Checkpointed(126, "x"), StatusChanged("finished")], training(126))
    return replace(view, task=task)


def label_of(key: str) -> str:
    ((label, _),) = labelled(key, "")
    return label


def spoken(key: str) -> str:
    metric = metrics.METRICS[key]
    name = metric.phrase or metric.title
    return name[0].upper() + name[1:]


def facts(view: RunView, metrics: dict[str, Any]) -> dict[str, str]:
    return dict(summary.rows(view, metrics))


def test_text_is_deterministic() -> None:
    assert summary.text(finished(), METRICS, "run") == "\n".join(
        [
            "lora on smollm2-135m (lora-3f9a2c) finished",
            *(
                f"  {label:<{max(len(label_of('trainable_parameters')), 20)}} {value}"
                for label, value in (
                    ("data", "tickets: 336 examples, 60 in the eval set, 41,234 supervised tokens"),
                    (label_of("eval_loss"), "3.520 → 0.610 (-2.910)"),
                    (label_of("train_loss"), "3.975 first step → 0.410 last-epoch mean"),
                    ("steps", "126 of 126 (3 epochs)"),
                    (label_of("trainable_parameters"), "4,884,480 (3.5 % of the model)"),
                    (label_of("train_seconds"), "2 min 59 s (estimate 2 min 50 s)"),
                    (label_of("peak_memory_mb"), "3.0 GB (estimate 3.1 GB)"),
                    ("precision and device", "float32 on cpu"),
                    ("batching", "fast"),
                    ("next", 'run.generate("…")'),
                    ("", "%peft save run my-adapter"),
                )
            ),
        ]
    )


def test_without_styles_a_table_a_picture_and_code_remain() -> None:
    html = summary.html(finished(), METRICS, "run")
    bare = re.sub(r' style="[^"]*"', "", html)
    page = Balanced(bare)
    assert "<style" not in html
    assert "<script" not in html
    assert bare.count("<tr>") == 9
    assert "(eval_loss)" in page.words
    assert "0.610" in page.words
    image = next(attributes for attributes in page.attributes if "alt" in attributes)
    assert image["alt"] == "Losses over 126 steps: train loss 3.975 to 0.850, eval loss 3.520 to 0.610"
    assert image["src"] is not None
    data = b64decode(image["src"].removeprefix("data:image/png;base64,"))
    assert struct.unpack(">II", data[16:24]) == (2 * summary.WIDTH, 2 * summary.HEIGHT)
    assert len(data) < 100_000


@pytest.mark.parametrize(
    ("status", "checkpoint", "name", "steps"),
    [
        ("finished", True, "mine", ['mine.generate("…")', "%peft save mine my-adapter"]),
        (
            "finished",
            True,
            None,
            ["%peft load lora-3f9a2c --out run", 'run.generate("…")', "%peft save run my-adapter"],
        ),
        ("stopped", True, "run", ["%peft resume run", 'run.generate("…")', "%peft save run my-adapter"]),
        ("failed", True, "run", ["%peft resume run"]),
        ("failed", False, "run", []),
    ],
)
def test_next_steps_fit_how_it_ended(status: str, checkpoint: bool, name: str | None, steps: list[str]) -> None:
    events = [Checkpointed(1, "x")] if checkpoint else []
    view = replay([*events, StatusChanged(status)], KNOWN)  # type: ignore[arg-type]
    assert summary.next_steps(view, {}, name) == steps


def test_what_is_warned_of_stands_once_and_is_not_offered_to_be_saved() -> None:
    warning = "the train loss ends at 9, far above the 2 where it began: the learning rate (1) is likely too high"
    view = replay([Checkpointed(1, "x"), Notice(warning), StatusChanged("finished")], KNOWN)
    text = summary.text(view, {"warning": warning}, "run")
    assert text.count(warning) == 1
    assert next(line for line in text.splitlines() if warning in line).split()[0] == "warning"
    assert Balanced(summary.html(view, {"warning": warning}, "run")).words.count(f"Warning: {warning}") == 1
    assert "save" not in text
    assert "%peft save run" in summary.text(view, {}, "run")


def test_a_run_that_failed_before_training_says_why_and_shows_no_picture() -> None:
    view = replay([StatusChanged("failed", f"row 12 is {EVIL}")], KNOWN)
    html = summary.html(view, {})
    assert "<img" not in html
    assert "<script" not in html
    assert summary.headline(view) == f"lora on smollm2-135m (lora-3f9a2c) failed: row 12 is {EVIL}"
    assert f"failed: row 12 is {EVIL}" in Balanced(html).words


def test_notices_and_foreign_names_are_escaped() -> None:
    view = replay([Notice(EVIL)], RunView(id=EVIL, method=EVIL, model=EVIL, data=EVIL))
    assert "<script" not in summary.html(view, {}, EVIL)


def test_the_headline_says_why_it_stopped() -> None:
    view = replay([StatusChanged("stopped", "after step 60")], training(60))
    assert summary.headline(view) == "lora on smollm2-135m (lora-3f9a2c) stopped: after step 60"


def test_the_base_alone_is_no_change() -> None:
    view = replay([StatusChanged("stopped")], training(2))
    assert (label_of("eval_loss"), "3.520") in summary.rows(view, {})


CLASSIFIED = METRICS | {
    "classes": ["<b>bug</b>", "praise", "wish"],
    "multi_label": False,
    "accuracy": 0.9125,
    "macro_f1": 0.9,
    "confusion": [[0, 0, 20], [0, 1, 4], [1, 1, 18], [2, 2, 17], [2, 1, 1]],
}


def test_a_classifier_is_judged_by_how_often_it_is_right() -> None:
    told = facts(finished("classification"), CLASSIFIED)
    assert told["data"] == "tickets: 336 examples, 60 in the eval set, 3 classes (<b>bug</b>, praise, wish)"
    assert (told["accuracy"], told["macro-F1 (macro_f1)"]) == ("91.2 %", "0.900")
    assert 'run.predict("…")' in summary.text(finished("classification"), CLASSIFIED, "run")
    several = {name: value for name, value in CLASSIFIED.items() if name != "confusion"}
    several |= {"multi_label": True, "micro_f1": 0.95}
    told = facts(finished("classification"), several)
    assert (told["accuracy"], told["micro-F1 (micro_f1)"]) == ("91.2 % with all labels right", "0.950")
    assert summary.html(finished("classification"), several, "run").count("<img") == 1


def test_a_classifiers_mistakes_are_a_picture_with_words() -> None:
    html = summary.html(finished("classification"), CLASSIFIED, "run")
    images = [attributes for attributes in Balanced(html).attributes if "alt" in attributes]
    told = "Confusion matrix of 3 classes; most often <b>bug</b> predicted as praise: 4; wish predicted as praise: 1"
    assert [image["alt"] for image in images][1:] == [told]
    assert "<b>" not in html


JUDGED = METRICS | {
    "perplexity": 1.84,
    "token_accuracy": 0.832,
    "score": 0.8125,
    "base_score": 0.21,
    "score_interval": [0.75, 0.87],
    "forgetting": 0.031,
    "forgetting_interval": [0.02, 0.043],
    "worst_hit": [["code-3", 0.21], ["<b>", 0.18], ["story-1", 0.1], ["story-2", 0.05]],
    "regression_score": 0.5,
    "base_regression_score": 0.53125,
    "regression_score_interval": [0.38, 0.63],
    "wall_seconds": 200.0,
    "cpu_seconds": 380.0,
    "adapter_mb": 19.6,
    "latency_ms": 38.2,
    "base_latency_ms": 30.9,
    "verdict": "passed: eval_loss 0.61, wanted < 1.2",
    "criteria": [{"metric": "eval_loss", "wanted": "< 1.2", "got": 0.61, "passed": True, "why": ""}],
}


def test_a_judgement_is_said_in_lines_and_ends_with_the_verdict() -> None:
    told = facts(finished(), JUDGED)
    expected = {
        "eval_loss": "3.520 → 0.610 (-2.910)",
        "perplexity": "1.840",
        "token_accuracy": "83 %",
        "score": "0.21 → 0.81 (95 %: 0.75 to 0.87)",
        "forgetting": "+0.031 nats per token (95 %: +0.020 to +0.043), lower is better; "
        "largest increase: code-3 (+0.21), <b> (+0.18), story-1 (+0.10)",
        "regression_score": "0.53 → 0.50 (95 %: 0.38 to 0.63)",
        "wall_seconds": "3 min 20 s",
        "cpu_seconds": "6 min 20 s",
        "adapter_mb": "19.6 MB",
        "latency_ms": "38.2 ms per token, base model 30.9",
    }
    assert {key: told[label_of(key)] for key in expected} == expected
    last = summary.text(finished(), JUDGED, "run").splitlines()[-1]
    assert last == f"Verdict: passed, everything demanded was met. {spoken('eval_loss')} 0.61, should be below 1.2."


def test_what_was_not_reached_is_said_to_people_who_never_saw_a_loss() -> None:
    criteria = [
        {"metric": "forgetting", "wanted": "< 0.05", "got": 0.1234567, "passed": False, "why": ""},
        {"metric": "score", "wanted": ">= 0.8", "got": None, "passed": False, "why": "no <b>row</b>"},
        {"metric": "latency_ms", "wanted": "<= 50", "got": 38.2, "passed": True, "why": ""},
        {"metric": "eval_loss", "wanted": "> 0", "got": float("nan"), "passed": False, "why": ""},
    ]
    told = (
        f"Verdict: failed, 3 of 4 demands not met. {spoken('forgetting')} 0.1235, should be below 0.05. "
        f"{spoken('score')} was not measured (no <b>row</b>), should be at least 0.8. "
        f"{spoken('eval_loss')} not a number, should be above 0."
    )
    assert summary.text(finished(), JUDGED | {"criteria": criteria}).splitlines()[-1] == told
    html = summary.html(finished(), JUDGED | {"criteria": criteria}, "run")
    assert "<b>" not in html
    page = Balanced(html)
    assert page.words.endswith(told)


def test_a_classifiers_latency_is_that_of_a_text() -> None:
    more = {"score": 0.9125, "latency_ms": 4.0, "base_latency_ms": 3.0, "wall_seconds": 9.0}
    told = facts(finished("classification"), CLASSIFIED | more)
    assert told[label_of("latency_ms")] == "4 ms per text, base model 3"
    assert "score" not in told


def test_a_class_has_its_precision_recall_and_f1_and_long_lists_are_folded() -> None:
    assert summary.by_class(CLASSIFIED) == [
        ("<b>bug</b>", 1.0, pytest.approx(20 / 24), pytest.approx(40 / 44), 24),
        ("praise", pytest.approx(18 / 23), 1.0, pytest.approx(36 / 41), 18),
        ("wish", 1.0, pytest.approx(17 / 18), pytest.approx(34 / 35), 18),
    ]
    html = summary.html(finished("classification"), CLASSIFIED, "run")
    assert "<details open>" in html
    assert "0.833" in Balanced(html).words
    many = CLASSIFIED | {"classes": [f"class {n}" for n in range(20)]}
    assert "<details>" in summary.html(finished("classification"), many, "run")


def test_classes_of_which_a_text_has_several_have_the_same_table() -> None:
    several = {name: value for name, value in CLASSIFIED.items() if name != "confusion"} | {"multi_label": True}
    assert "<details" not in summary.html(finished("classification"), several, "run")  # of an older run
    several |= {"class_counts": [[24, 20, 20], [18, 23, 18], [0, 0, 0]]}
    assert summary.by_class(several) == [
        ("<b>bug</b>", 1.0, pytest.approx(20 / 24), pytest.approx(40 / 44), 24),
        ("praise", pytest.approx(18 / 23), 1.0, pytest.approx(36 / 41), 18),
        ("wish", 0.0, 0.0, 0.0, 0),
    ]
    html = summary.html(finished("classification"), several, "run")
    assert "3 classes on the eval set" in Balanced(html).words
    assert "0.833" in Balanced(html).words
    assert html.count("<img") == 1  # the curve; a matrix of pairs says nothing here
