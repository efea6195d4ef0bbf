"""What is found in tables of clips, and how it is fixed."""

from __future__ import annotations

import numpy

from peft_nb.data.audio.checks import check
from peft_nb.data.detection import detect
from tests import speech


def sound(array: numpy.ndarray) -> dict[str, object]:
    return {"array": array, "sampling_rate": speech.RATE}


def noise(seed: int, seconds: float) -> numpy.ndarray:
    return (0.1 * numpy.random.default_rng(seed).standard_normal(round(seconds * speech.RATE))).astype("float32")


def test_everything_planted_is_found_and_fixed() -> None:
    rows = [{"audio": sound(noise(n, 2)), "text": f"that is the ship number {n} of the line"} for n in range(12)]
    rows += [
        dict(rows[0]),
        {**rows[1], "text": "something else"},
        {"audio": "none.wav", "text": "hello"},
        {"audio": sound(noise(15, 2)), "text": " "},
        {"audio": sound(noise(16, 2) * 1e-5), "text": "nothing is heard"},
        {"audio": sound(noise(17, 1)), "text": "far too much text for one second of sound " * 4},
        {"audio": sound(noise(18, 31)), "text": "a long story " * 20},
        {"audio": sound(numpy.clip(noise(19, 2) * 60, -1, 1)), "text": "loud and louder"},
        {"audio": sound(noise(20, 9)), "text": "short"},
        {"audio": sound(noise(21, 2)), "text": "das Schiff ist nicht mit der Flut"},
        {"audio": sound(noise(22, 2)), "text": "ich und das Boot"},
        {"audio": sound(noise(23, 2)), "text": "write to ann.miller@example.com"},
        {"audio": sound(noise(24, 2)), "text": "the cafÃ© and the pier"},
    ]
    held = [{"audio": rows[5]["audio"], "text": "again"}]
    layout = detect(rows)
    assert (layout.name, layout.kind) == ("audio_text", "audio")
    found = check(rows, layout, held, detect(held))
    told = {one.kind: one.rows for one in found.findings}
    assert told.pop("personal", (23,)) == (23,)
    assert told == {
        "malformed": (14,),
        "empty": (15,),
        "silent": (16,),
        "too_much_text": (17,),
        "over_30_s": (18,),
        "clipping": (19,),
        "little_text": (20,),
        "contradiction": (13,),
        "duplicate": (12,),
        "leak": (5,),
        "languages": (21, 22),
        "encoding": (24,),
        "few": (),
    }
    assert found.spread == {"shortest": 1, "median": 2, "longest": 31}
    fixed = found.fixed
    assert sorted(fixed.dropped) == [5, 12, 14, 15, 16, 17, 18]
    assert fixed.patches == {24: {"text": "the café and the pier"}}
    again = check([rows[place] for place in fixed.kept], layout)
    kinds = {one.kind for one in again.findings}
    assert not kinds & {"duplicate", "silent", "over_30_s", "too_much_text", "malformed", "empty"}


def test_columns_are_found_as_usual_data_sets_name_them() -> None:
    path = {"path": "a.mp3", "sentence": "hello", "client_id": "1", "locale": "de"}
    found = detect([path])
    assert found.columns == {"audio": "path", "text": "sentence", "language": "locale"}
    bare = {"audio": noise(0, 1), "transcription": "hello", "sampling_rate": 16_000}
    found = detect([bare])
    assert found.columns == {"audio": "audio", "text": "transcription", "sampling_rate": "sampling_rate"}
    clip, text, language = found.spoken(bare)
    assert (len(clip.open()), text, language) == (16_000, "hello", "")
