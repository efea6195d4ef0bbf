from __future__ import annotations

import pytest

from peft_nb.documents.chunks import Chunk
from peft_nb.documents.templates import Drafted, written


def asked(text: str, heading: str = "") -> list[Drafted]:
    return written(Chunk("desk.md", "line 1", text, heading))


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("The Petrel 4 is an outboard engine.", "What can you tell me about the Petrel 4?"),
        ("A berth for guests costs 21 euros a night.", "How much does a berth for guests cost?"),
        ("Refunds take 5 working days.", "How long do refunds take?"),
        ("If the parcel is heavy, the courier collects it.", "What happens if the parcel is heavy?"),
        ("To ask for a refund, write to the desk.", "How do I ask for a refund?"),
        ("**Anna Berg** is the head of the desk.", "What can you tell me about Anna Berg?"),
    ],
)
def test_a_sentence_becomes_a_question_that_it_answers(sentence: str, question: str) -> None:
    (found,) = asked(sentence)
    assert found.question == question
    assert found.answer == sentence.replace("*", "")


@pytest.mark.parametrize("begins", ["It", "In winter the hall", "There it"])
def test_what_points_back_is_asked_for_by_its_gap_alone(begins: str) -> None:
    (found,) = asked(f"{begins} is heated to 8 degrees.", "Harbour › Hall")[:-1]
    assert found == Drafted(f"Which words belong in the gap (on Hall)? {begins} is heated to ___.", "8 degrees")


@pytest.mark.parametrize(
    ("sentence", "fact"),
    [
        ("There on channel 67, where it is heard, it is called.", "67"),
        ("There it opens at 7 in the morning.", "7"),
        ("At noon it is 1,200 m long.", "1,200 m"),
        ("In June it was € 4.50 a piece.", "€ 4.50"),
    ],
)
def test_a_number_is_a_fact_with_its_unit(sentence: str, fact: str) -> None:
    (found,) = asked(sentence)
    assert found.answer == fact


def test_a_section_is_told_from_its_first_sentences() -> None:
    *_, last = asked("Boats are lifted by the crane. " + "It stands at the quay. " * 30, "Harbour › Crane")
    assert last.question == "What do the documents say about Crane?"
    assert last.answer.startswith("Boats are lifted by the crane.")
    assert len(last.answer.split()) <= 60


@pytest.mark.parametrize("text", ["", "Opening hours", "| a | b |", "No end", "Ok.", "word " * 50 + "."])
def test_what_is_no_sentence_is_not_asked_about(text: str) -> None:
    assert asked(text) == []
