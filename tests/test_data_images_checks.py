"""What is found in tables of images, and how it is fixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import peft_nb
from peft_nb.data.detection import detect
from peft_nb.data.images.checks import check
from peft_nb.errors import DataError
from tests import images


def test_everything_planted_is_found_and_fixed(tmp_path: Path) -> None:
    rows = images.rows(30)
    rows += [
        dict(rows[0]),
        {"image": rows[3]["image"].resize((80, 80)), "label": "circle"},
        {"image": rows[4]["image"], "label": "square"},
        {"image": str(tmp_path / "none.png"), "label": "cross"},
        {"image": images.drawing("cross", 99).resize((10, 10)), "label": "cross"},
        {"image": images.drawing("cross", 98).convert("CMYK"), "label": "Cross"},
        {"image": images.drawing("cross", 97), "label": "dot"},
    ]
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    images.drawing("square", 96).save(tmp_path / "there.png", exif=exif.tobytes())
    rows += [{"image": str(tmp_path / "there.png"), "label": "square"}, {"image": rows[9]["image"], "label": "circle"}]
    held = [{"image": images.drawing("circle", 9), "label": "circle"}, {"image": rows[1]["image"], "label": "ring"}]
    layout = detect(rows)
    found = check(rows, layout, held, detect(held, "image_label"))
    told = {one.kind: one.rows for one in found.findings}
    assert told.pop("few") == ()
    assert told.pop("imbalance") == ()
    assert told == {
        "malformed": (33,),
        "unknown_label": (1,),
        "leak": (1, 9, 38),
        "label_spelling": (35,),
        "contradiction": (32,),
        "duplicate": (30,),
        "near_duplicate": (31,),
        "tiny": (34,),
        "mode": (35,),
        "location": (37,),
    }
    assert found.spread == {"shortest": 10, "median": 40, "longest": 80}
    fixed = found.fixed
    assert sorted(fixed.dropped) == [1, 9, 30, 31, 33, 34, 38]
    assert fixed.patches == {35: {"label": "cross"}}
    again = check([{**rows[place], **fixed.patches.get(place, {})} for place in fixed.kept], layout, held, layout)
    assert {one.kind for one in again.findings} <= {
        "unknown_label",
        "contradiction",
        "few",
        "imbalance",
        "mode",
        "location",
    }


def test_a_report_shows_images_and_gives_the_next_steps(tmp_path: Path) -> None:
    folder = images.folder(tmp_path / "shapes", 24)
    images.drawing("cross", 1).save(folder / "cross" / "again.png")
    report = peft_nb.check(str(folder))
    assert "longer side, pixels: shortest 40, median 40, longest 40" in repr(report)
    assert report._repr_html_().count("data:image/jpeg;base64,") == 24
    assert [finding.kind for finding in report.findings] == ["duplicate"]
    assert any("--model=dinov2-small --task=image-classification" in step for step in report.next_steps)
    changed = peft_nb.check(str(folder), augment="strong", image_size=32)
    assert "as augment: strong may show them" in changed._repr_html_()
    with pytest.raises(DataError, match="an image has no tokens"):
        report.tokens(0)
    clean = report.fixed()
    assert len(clean) == 24
    assert report.verdict == "clean: nothing to fix"


def test_columns_that_are_not_used_are_named() -> None:
    rows = [{**row, "mask": row["image"], "caption": "a shape on a dark ground"} for row in images.rows(9)]
    layout = detect(rows, "image_label", {"image": "image", "label": "label"})
    told = {one.kind: one.title for one in check(rows, layout).findings}
    assert "caption (texts)" in told["unused_column"]
    assert "column 'mask' holds images, and of each row the image in 'image' alone is read" in told["media"]


def test_images_beside_texts_are_no_part_of_a_task_of_texts() -> None:
    rows = [{"prompt": "What is it?", "completion": "A cross.", "image": images.drawing("cross", 1)}] * 3
    from peft_nb.data import table
    from peft_nb.spec import RunSpec
    from peft_nb.tasks import inspect

    with pytest.raises(
        DataError, match=r"this task reads text only; .*or on the images alone, set format: image_label"
    ):
        inspect(RunSpec(data="x"), table.read(RunSpec(data="x"), rows))


def test_captioned_images_are_looked_at_too(tmp_path: Path) -> None:
    rows = [{"image": row["image"], "text": f"a {row['label']}", "reasoning": "why not"} for row in images.rows(8)]
    rows += [rows[2], {**rows[3], "image": "none.png"}, {**rows[3], "text": ""}]
    found = check(rows, detect(rows))
    kinds = {finding.kind for finding in found.findings}
    assert {"malformed", "duplicate", "unused_column"} <= kinds
    assert not kinds & {"one_label", "few", "imbalance", "label_spelling", "contradiction"}
    for number, row in enumerate(rows[:8]):
        row["image"].save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(row["text"])
    report = peft_nb.check(str(tmp_path))
    assert report._repr_html_().count("data:image/jpeg;base64,") == 8
    assert "a circle" in report._repr_html_()
    assert any("--task=text-to-image" in step for step in report.next_steps)
