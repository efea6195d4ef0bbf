from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from peft_nb.runs.sweeps.search import Search
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import SweepRecord
from peft_nb.ui import sweep_page
from peft_nb.ui.lineage import tree


def drawn(html: str) -> list[ElementTree.Element]:
    """The charts of a page, which are well-formed."""
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_the_page_holds_state_charts_and_a_row_a_trial(swept: Search) -> None:
    record = swept.record
    html = sweep_page.html(swept.spec, record, {}, {"learning_rate": 0.75, "method": 0.25})
    assert "tickets: finished, 8 trials" in html
    assert "stopped early" in html
    assert "Estimate: 8 trials, at most about" in html
    assert "r: ia3 has no rank; its trials leave it out" in html
    assert "Best by eval loss: trial" in html
    over_time, scatter = drawn(html)
    assert over_time.get("role") == scatter.get("role") == "img"
    assert str(over_time.get("aria-label")).startswith("eval loss by seconds of work of 8 trials")
    assert len(re.findall("<circle", html)) == 16
    assert "learning_rate (log)" in html
    assert html.count('<th scope="row"') == 8 + 2
    assert "</span> 75 %" in html
    assert "<script" not in html


def test_the_lineage_of_a_trial_names_its_sweep(swept: Search) -> None:
    told = repr(tree(swept.store.lineage(str(swept.record.trials[0].run))))
    assert f"trial of: {swept.id}" in told


def test_foreign_words_are_escaped(swept: Search) -> None:
    record: SweepRecord = swept.record
    first = replace(record.trials[0], reason="<b>&", values={"method": "<i>"})
    evil = replace(record, trials=(first,), notes=("<script>",), reason="<u>")
    html = sweep_page.html(swept.spec, evil, {}, {"<s>": 1.0})
    assert not re.search("<(b|i|s|u|script)>", html)
    assert "&lt;b&gt;&amp;" in html


def test_a_sweep_without_trials_has_neither_charts_nor_a_table(swept: Search) -> None:
    empty = replace(swept.record, trials=(), forecast={}, status="running")
    html = sweep_page.html(swept.spec, empty, {}, {})
    assert "running, 0 of 8 trials" in html
    assert "<svg" not in html
    assert "<table" not in html


def test_a_trial_at_work_says_its_step(swept: Search) -> None:
    record = swept.record
    working = replace(record.trials[-1], state="running", seconds=0.0)
    record = replace(record, trials=(*record.trials[:-1], working), status="running")
    assert "step 3 of 9" in sweep_page.table(swept.spec, record, {8: (3, 9)})
    assert "tickets: running, 7 of 8 trials, 1 running" in sweep_page.text(swept.spec, record, {8: (3, 9)})


def test_the_text_is_a_table_too(swept: Search) -> None:
    head, *_, last = sweep_page.text(swept.spec, swept.record, {}).splitlines()
    assert head.startswith("tickets: finished, 8 trials")
    assert last.startswith("8 ")
    news = list(sweep_page.news(swept.spec, swept.record))
    assert sum(line.startswith("trial ") for line in news) == 8


def test_the_front_of_two_metrics_is_a_line(swept: Search) -> None:
    spec = SweepSpec(**{**swept.spec.changed(), "minimize": ["eval_loss", "adapter_mb"]})
    html = sweep_page.html(spec, swept.record, {}, {})
    assert "eval loss (line: Pareto front)" in html
    assert len(drawn(html)) == 3


def test_what_is_said_of_values_and_scales(swept: Search) -> None:
    told = {"learning_rate": 3e-4, "target_modules": ["q", "v"], "method_options": {"a": 1}, "r": None, "fast": True}
    assert (
        sweep_page.said(told) == "learning_rate 0.0003, target_modules q, v, method_options a: 1, r default, fast True"
    )
    assert sweep_page.logarithmic(swept.spec, "learning_rate")
    assert not sweep_page.logarithmic(swept.spec, "r")
    assert sweep_page.numbers(swept.spec, swept.record)[:3] == ["r", "learning_rate", "eval_loss"]
    assert sweep_page.title("adapter_mb") == "adapter size"
    assert sweep_page.ahead({}) == ""
    told = {"trials": None, "seconds": None, "memory_mb": 2000.0, "room_mb": 1000.0, "untold": ["x: no"]}
    said = sweep_page.ahead(told)
    assert said == (
        "Estimate: as many trials as the time allows, time not estimated, 2.0 GB of memory (1.0 GB available): "
        "may not fit; x: no"
    )
