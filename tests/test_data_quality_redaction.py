from __future__ import annotations

import pytest

pytest.importorskip("presidio_analyzer")

from peft_nb.data import detection, sources
from peft_nb.data.quality import pii
from peft_nb.data.quality.fixes import Change
from peft_nb.data.quality.redaction import redact_rows
from peft_nb.errors import DataError

ROWS = [{"prompt": f"Where is parcel {number}?", "completion": "On its way."} for number in range(60)]
PRIVATE = [
    {**row, "completion": "write to anna.berg@tidewater.shop or +49 30 901820"} if number in (3, 40) else row
    for number, row in enumerate(ROWS)
]
TABLE = sources.read(PRIVATE).train
LAYOUT = detection.detect(TABLE)


def test_with_a_warning_rows_stay_as_they_are() -> None:
    rows, changes = redact_rows(TABLE, LAYOUT, "warn")
    assert rows is TABLE
    assert changes == []


def test_personal_data_are_replaced_and_nothing_else() -> None:
    rows, changes = redact_rows(TABLE, LAYOUT, "redact")
    assert changes == [Change(number, f"redacted {kind}") for number in (3, 40) for kind in ("EMAIL", "PHONE")]
    mended = {**ROWS[40], "completion": "write to <EMAIL> or <PHONE>"}
    assert rows[40] == mended
    assert [row for number, row in enumerate(rows) if number not in (3, 40)] == [
        row for number, row in enumerate(ROWS) if number not in (3, 40)
    ]
    assert list(TABLE) == PRIVATE


def test_personal_data_are_refused_without_showing_them() -> None:
    message = (
        "personal data in 2 of 60 rows (EMAIL in 2, PHONE in 2; rows 3, 40, counting from 0); "
        "redact them with personal_data: redact, name what is none in allow, or drop the rows"
    )
    with pytest.raises(DataError) as refused:
        redact_rows(TABLE, LAYOUT, "refuse")
    assert str(refused.value) == message


def test_clean_rows_pass() -> None:
    clean = sources.read(ROWS).train
    for wanted in ("redact", "refuse"):
        assert redact_rows(clean, LAYOUT, wanted) == (clean, [])


def test_what_cannot_be_looked_for_cannot_be_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pii, "available", lambda: False)
    assert redact_rows(TABLE, LAYOUT, "warn") == (TABLE, [])
    with pytest.raises(DataError, match=r"^personal_data: redact needs presidio-analyzer, .*'peft_nb\[privacy\]'"):
        redact_rows(TABLE, LAYOUT, "redact")
