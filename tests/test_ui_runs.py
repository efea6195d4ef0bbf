from __future__ import annotations

import re
from typing import Any

from peft_nb.events import Evaluated, StatusChanged, StepLogged
from peft_nb.store import Store
from peft_nb.ui import runs as listing

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> مرحبا 👩‍🔧 " + "w" * 300
SPEC = "data: rows\n"


def trained(store: Store, name: str | None = None, loss: float = 1.0, **metrics: Any) -> str:
    id = store.create(SPEC, method="lora", model="smollm2-135m", name=name)
    for step in range(1, 11):
        store.record(id, StepLogged(step, step / 10, loss + 1 / step, 1e-3, 1.0, 900.0, 2900.0, 2.0 * step))
    store.record(id, Evaluated(10, loss))
    (store.folder_of(id) / "adapter").mkdir()
    (store.folder_of(id) / "adapter" / "adapter_model.safetensors").write_text("weights")
    store.set_metrics(id, {"eval_loss": loss, "train_loss": loss + 0.1, "train_seconds": 20.0, **metrics})
    store.record(id, StatusChanged("finished"))
    return id


def test_runs_are_found_by_all_words_and_sorted_by_any_column(store: Store) -> None:
    first, second = trained(store, "tickets", 2.0), trained(store, "mails", 1.5, verdict="failed: forgets")
    third = store.create(SPEC, method="ia3", model="other")
    records = store.all()
    assert [one.id for one in listing.found(records, "  TICKETS finished")] == [first]
    assert [one.id for one in listing.found(records, "forgets")] == [second]
    assert listing.found(records, "tickets forgets") == []
    assert [one.id for one in listing.ordered(records, "eval loss", False)] == [second, first, third]
    assert [one.id for one in listing.ordered(records, "eval loss", True)] == [first, second, third]
    assert [one.id for one in listing.ordered(records, listing.NEWEST, True)] == [third, second, first]
    for column in listing.COLUMNS:
        assert {one.id for one in listing.ordered(records, column, True)} == {first, second, third}


def test_a_tag_is_found_as_a_whole_or_like_any_word(store: Store) -> None:
    first, second, _ = (trained(store, name) for name in ("a", "b", "c"))
    store.tag(first, "Base", "long")
    store.tag(second, "baseline")
    records = store.all()
    assert [one.id for one in listing.found(records, "tag:base")] == [first]
    assert [one.id for one in listing.found(records, "tag:baseline finished")] == [second]
    assert [one.id for one in listing.found(records, "BASE")] == [second, first]
    assert listing.found(records, "tag:") == []
    html = listing.table(records, {}, "run", False, [])
    chips = re.findall('data-tag="([^"]*)"[^>]*>([^<]*)', html)
    assert chips == [("baseline", "baseline"), ("Base", "Base"), ("long", "long")]


def test_the_table_says_how_it_is_sorted_and_which_runs_are_chosen(store: Store) -> None:
    id = trained(store, "tickets", 2.0, verdict="passed: eval_loss 2", base_eval_loss=3.0, peak_memory_mb=2900)
    store.promote(id, "production", why="good")
    records = store.all()
    html = listing.table(records, listing.curves(store, records), "duration", True, [id])
    assert html.count('scope="col"') == len(listing.COLUMNS)
    assert re.findall('aria-sort="([a-z]+)" data-number><button[^>]*>([^<]*)', html) == [("descending", "duration ▼")]
    assert html.count("<polyline") == html.count("<circle") == 1
    for words in ("tickets v1", "finished", "2.000", "base 3.000", "✓ passed", "@production", "20 s", "2.9 GB"):
        assert words in html
    assert f'data-run="{id}" aria-label="choose tickets v1" checked' in html
    assert f'data-open="{id}"' in html
    assert " checked" not in listing.table(records, {}, "duration", True, [])


def test_the_static_page_has_whole_words_and_numbers_to_the_right(store: Store) -> None:
    empty = listing.listed(store)
    assert "<li>Check a DataFrame: <code>%peft data TABLE</code></li>" in empty._repr_html_()
    assert repr(empty).splitlines()[:2] == ["no runs yet", "Check a DataFrame: %peft data TABLE"]
    store.create(SPEC, method="lora", model=EVIL, name="tickets")
    trained(store, "tickets", 2.0, train_seconds=12345.678)
    html = listing.listed(store)._repr_html_()
    assert re.search("text-align:right[^>]*>12,345.678</td>", html)
    assert re.search("text-align:left[^>]*>tickets</td>", html)
    assert "<script" not in html
    assert "w" * 300 in html


def test_words_of_others_are_text(store: Store) -> None:
    id = store.create(SPEC, method="lora", model=EVIL)
    store.set_metrics(id, {"verdict": f"failed: {EVIL}"})
    store.record(id, StatusChanged("failed", EVIL))
    html = listing.table(store.all(), {}, "run", False, [])
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("w" * 300) == 3  # what is long is folded away, not cut
    assert "مرحبا" in html


def test_a_long_curve_is_drawn_from_a_few_points(store: Store) -> None:
    id = store.create(SPEC, method="lora", model="m")
    with store._index.writing() as db:
        rows = ((id, step, 1 / step, None if step % 100 else 2.0) for step in range(1, 20_001))
        db.executemany("INSERT INTO history (run, step, loss, eval_loss) VALUES (?, ?, ?, ?)", rows)
    losses, evals = store.curve(id)
    assert len(losses) == len(evals) == 120
    assert losses[-1][0] == evals[-1][0] == 20_000
    assert losses[0][1] > losses[1][1] > losses[-1][1]
    assert {value for _, value in evals} == {2.0}
