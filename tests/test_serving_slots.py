from __future__ import annotations

from contextlib import ExitStack

from peft_nb.serving.slots import Slots


def taken(slots: Slots, adapter: str | None, prompt: str, several: bool = False) -> tuple[int | None, bool]:
    """Ask once: which slot, and whether what it holds is used."""
    with slots.of(((adapter, 1.0),) if adapter else (), prompt, several) as place:
        return place.get("id_slot"), place["cache_prompt"]


def test_the_next_turn_finds_its_conversation_and_no_other_adapter_does() -> None:
    slots = Slots(3)
    assert taken(slots, "a", "Hello") == (0, False)
    assert taken(slots, "b", "Hello") == (1, False)
    assert taken(slots, "a", "Hello, you") == (0, True)
    assert taken(slots, None, "Hello, you") == (2, False)
    assert taken(slots, "b", "Hello, you") == (1, True)
    assert taken(slots, None, "Hello, you") == (2, True)
    assert taken(slots, "a", "Something else") == (0, True)  # unused for longest; what begins alike is looked up there
    assert taken(slots, "c", "Hello") == (1, False)


def test_slots_at_work_are_left_alone() -> None:
    slots = Slots(2)
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(slots.of((("a", 1.0),), "Hello")) for _ in range(3))
        assert (first["id_slot"], second["id_slot"]) == (0, 1)
        assert third == {"cache_prompt": False}
    assert taken(slots, "a", "Hello")[1]


def test_after_several_answers_at_once_nothing_is_known_of_slots() -> None:
    slots = Slots(2)
    assert taken(slots, "a", "Hello") == (0, False)
    assert taken(slots, "a", "Hello", several=True) == (None, False)
    assert taken(slots, "a", "Hello")[1] is False


def test_a_request_that_fails_leaves_nothing_to_use() -> None:
    slots = Slots(1)
    assert taken(slots, "a", "Hello") == (0, False)
    try:
        with slots.of((("a", 1.0),), "Hello") as place:
            assert place["cache_prompt"]
            raise ConnectionError
    except ConnectionError:
        pass
    assert taken(slots, "a", "Hello") == (0, False)
