from __future__ import annotations

import json
from pathlib import Path

from peft_nb.serving.answer_log import AnswerLog


def test_the_log_holds_no_text_and_no_user_unless_asked(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "answers.jsonl"
    for texts in (False, True):
        log = AnswerLog(file, texts)
        log.write(user="anna@example.org", asked="Who are you?", answer="Nobody.", version="tickets@v2", seconds=0.1)
        log.close()
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert first["version"] == second["version"] == "tickets@v2"
    assert first.keys() == {"at", "version", "seconds", "user"}
    assert (second["asked"], second["answer"], second["user"]) == ("Who are you?", "Nobody.", first["user"])
    assert "anna" not in file.read_text()
    assert file.stat().st_mode & 0o77 == 0
