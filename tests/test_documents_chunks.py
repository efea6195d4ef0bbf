from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from peft_nb.documents.chunks import Chunk, cut
from peft_nb.documents.reading import Document, Section

texts = st.text(st.sampled_from("abcdefgh.!? \n"), max_size=400)


def chunks(text: str, size: int, **section: str) -> list[Chunk]:
    return cut([Document("desk", (Section(text, line=3, **section),))], size)


@given(texts, st.integers(5, 60))
def test_all_of_a_text_is_in_its_chunks_once_and_none_is_too_long(text: str, size: int) -> None:
    found = chunks(text, size)
    assert all(0 < len(one.text) <= size for one in found)
    assert "".join(re.sub(r"\s+", "", one.text) for one in found) == re.sub(r"\s+", "", text)


def test_paragraphs_stay_together_while_they_fit() -> None:
    text = "One.\n\nTwo.\n\n" + "A sentence here. " * 3 + "\n\nEnd."
    assert [one.text for one in chunks(text, 40)] == [
        "One.\n\nTwo.\n\nA sentence here.",
        "A sentence here. A sentence here. \n\nEnd.",
    ]
    assert [one.text for one in chunks("abcdefghij klm", 5)] == ["abcde", "fghij", "klm"]


def test_a_chunk_knows_its_place() -> None:
    assert [one.place for one in chunks("One.\n\nTwo.\n\nThree.", 6)] == ["line 3", "line 5", "line 7"]
    (one,) = chunks("By post.", 40, place="Returns › Parcels", heading="Returns › Parcels")
    assert (one.source, one.place, one.searched) == ("desk", "Returns › Parcels", "Returns › Parcels\nBy post.")


def test_what_a_chunk_is_found_by_tells_it_from_others() -> None:
    first, second = Chunk("a", "x", "By post.", "Returns"), Chunk("b", "y", "By post.", "Returns")
    assert first.digest == second.digest != Chunk("a", "x", "By post.").digest


def test_sections_are_not_mixed() -> None:
    document = Document("desk", (Section("One.", place="page 1"), Section("  \n "), Section("Two.", place="page 2")))
    assert [(one.place, one.text) for one in cut([document])] == [("page 1", "One."), ("page 2", "Two.")]
