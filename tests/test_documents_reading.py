"""Documents of every kind there is a reader for, written by the libraries that write such files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
import pandas as pd
import pytest

from peft_nb.documents.reading import Document, Section, read
from peft_nb.errors import DataError

MARKDOWN = """Before all.

# Returns

Within 30 days.

## Parcels ##

By post.

```sh
# no heading
```

# Opening times
At nine.
"""


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text a page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects += [f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    objects += ["<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for number, text in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        page = f"/MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R"
        objects += [f"<< /Type /Page /Parent 2 0 R {page} >>"]
        objects += [f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream"]
    written, places = "%PDF-1.4\n", []
    for number, one in enumerate(objects, start=1):
        places.append(len(written))
        written += f"{number} 0 obj\n{one}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    written += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return f"{written}startxref\n{len(written) - len(table) - 80}\n%%EOF\n".encode("latin-1")


def sections(path: Path) -> list[Section]:
    ((document,), notes) = read(path)
    assert document.source == path.name
    assert notes == []
    return list(document.sections)


def test_markdown_is_taken_apart_at_its_headings(tmp_path: Path) -> None:
    path = tmp_path / "desk.md"
    path.write_text(MARKDOWN)
    found = sections(path)
    assert [(one.place, one.line) for one in found] == [
        ("", 1),
        ("Returns", 4),
        ("Returns › Parcels", 8),
        ("Opening times", 16),
    ]
    assert all(one.heading == one.place for one in found)
    assert found[2].text.strip() == "By post.\n\n```sh\n# no heading\n```"
    path.write_text("# A\n```\nopen for ever\n# in code\n")
    assert sections(path) == [Section("```\nopen for ever\n# in code\n", "A", "A", 2)]


def test_plain_text_is_one_section(tmp_path: Path) -> None:
    path = tmp_path / "desk.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.\r\n\r\nTwo.")
    assert sections(path) == [Section("One.\n\nTwo.", line=1)]


def test_a_web_page_is_read_without_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "desk.html"
    path.write_text(
        "<html><head><title>Desk</title><style>p {}</style></head><body><nav><p>Home</p></nav><p>First.</p>"
        "<h1>Returns</h1><ul><li>One <b>bold</b> word</li><li>Two</li></ul><h2>Parcels</h2><p>By post.</p>"
        "<script>alert(1)</script></body></html>"
    )
    told = [("", "First."), ("Returns", "One bold word\n\nTwo"), ("Returns › Parcels", "By post.")]
    assert [(one.place, one.text) for one in sections(path)] == told
    path.write_text("<div>bare &amp; plain</div>")
    assert [one.text for one in sections(path)] == ["bare & plain"]


def test_a_word_document_is_read_with_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "desk.docx"
    document = docx.Document()
    document.add_heading("Returns", 1)
    document.add_paragraph("Within 30 days.")
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Fee", "none"
    document.add_heading("Parcels", 2)
    document.add_paragraph("By post.")
    document.save(str(path))
    told = [("Returns", "Within 30 days.\n\nFee | none"), ("Returns › Parcels", "By post.")]
    assert [(one.heading, one.text) for one in sections(path)] == told


def test_a_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    path = tmp_path / "desk.pdf"
    path.write_bytes(pdf("Within 30 days.", "", "By post."))
    assert [(one.place, one.text) for one in sections(path)] == [("page 1", "Within 30 days."), ("page 3", "By post.")]


def test_a_folder_is_read_as_a_whole_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    for name in ("b.txt", "a/x.md", "a/logo.png", "notes.zip", ".git/config.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Text.")
    found, notes = read(str(tmp_path))
    assert [one.source for one in found] == ["a/x.md", "b.txt"]
    assert notes == ["2 files are none of txt, md, html, htm, pdf, docx, and left out: a/logo.png, notes.zip"]


def test_texts_come_from_variables_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A file.")
    whole = Document("desk", (Section("Text.", line=1),))
    assert read({"desk": "Text."}) == ([whole], [])
    frame = pd.DataFrame({"title": ["desk"], "content": ["Text."], "views": [3]})
    assert read(frame) == ([whole], ["columns not used: views"])
    assert read(frame.to_dict("records")) == read(frame)
    assert [one.source for one in read(pd.DataFrame({"text": ["x", "y"]}))[0]] == ["row 0", "row 1"]
    listed = [tmp_path / "a.txt", "Text.", str(tmp_path / "a.txt")]
    assert [one.source for one in read(listed)[0]] == ["a.txt", "text 1", "a.txt"]


def damaged(name: str, content: bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda folder: folder, "holds no document; it needs files of txt, md"),
        (lambda folder: folder / "none", "no such file or folder; give the path"),
        (damaged("logo.png", b""), "is none of txt, md, html, htm, pdf, docx; save it as one of these"),
        (damaged("a.txt", b"caf\xe9"), "is not UTF-8 at byte 3; save it as UTF-8"),
        (damaged("a.docx", b"PK"), "is not a whole docx file"),
        (damaged("a.pdf", b"%PDF-1.4"), "is not a PDF that can be read"),
        (damaged("a.pdf", pdf("")), "holds no text, perhaps only scanned pages; run OCR"),
        (lambda folder: {"desk": 3}, "desk is a int, not a text"),
        (lambda folder: 7, "a int is none of a folder, a file"),
        (lambda folder: pd.DataFrame({"question": ["x"]}), "no column is named text, content, document, body"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(given: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read(given(tmp_path))
    assert "\n" not in str(caught.value)
