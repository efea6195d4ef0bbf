"""Folders of clips with their texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.data import sources
from peft_nb.errors import DataError
from tests import speech


def test_each_clip_finds_the_text_beside_it(tmp_path: Path) -> None:
    found = sources.read(str(speech.folder(tmp_path / "clips", 6)))
    assert found.train.columns == ("audio", "text")
    assert [row["text"] for row in found.train] == [row["text"] for row in speech.rows(6)]
    assert found.train[0]["audio"].endswith("00.wav")
    assert "6 rows (each clip a row)" in found.origin


@pytest.mark.parametrize("name", ["metadata.csv", "what-was-said.tsv"])
def test_a_table_tells_the_texts_of_all(name: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "wavs").mkdir(parents=True)
        for number in range(2):
            speech.write(tmp_path / split / "wavs" / f"{split}{number}.flac", speech.sound("low"))
    mark = "\t" if name.endswith("tsv") else ","
    lines = [f"{one}{number}{end}" for one in ("train", "test") for number, end in ((0, ".flac"), (1, ""))]
    rows = "\n".join(f'{file}{mark}"said in {file}"' for file in lines)
    (tmp_path / name).write_text(f"File_Name{mark}Transcription\n{rows}\n")
    found = sources.read(str(tmp_path))
    assert [row["text"] for row in found.train] == ["said in train0.flac", "said in train1"]
    assert found.eval is not None
    assert [row["text"] for row in found.eval] == ["said in test0.flac", "said in test1"]


def test_what_tells_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    speech.write(tmp_path / "a.wav", speech.sound("low"))
    with pytest.raises(DataError, match="holds 1 clips and no texts of what is said; write the text of each"):
        sources.read(str(tmp_path))
    (tmp_path / "metadata.csv").write_text("clip,words\na.wav,low\n")
    with pytest.raises(DataError, match="has the columns clip, words; name one file_name and one text"):
        sources.read(str(tmp_path))
