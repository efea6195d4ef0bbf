"""Documents from wherever they are kept, as sections of text that know their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from peft_nb.data.support_desk import HANDBOOK
from peft_nb.errors import DataError

TEXT = ("text", "content", "document", "body")
SOURCE = ("source", "title", "name", "file", "url", "id")
HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*$")
FENCE = re.compile(r"\s*(```|~~~)")
BUILTIN = {"support-desk": HANDBOOK}
NAMED = 3  # files in a note


@dataclass(frozen=True)
class Section:
    """A part of a document under one heading, or on one page.

    Attributes
    ----------
    text : str
        What it says; blank lines are between its paragraphs.
    place : str
        Where it is, such as ``Returns › Parcels`` or ``page 3``; empty where only its lines tell.
    heading : str
        Its headings, which are searched with it; empty where it has none.
    line : int
        The line of the document in which it begins, counting from 1; 0 where there are no lines.
    """

    text: str
    place: str = ""
    heading: str = ""
    line: int = 0


@dataclass(frozen=True)
class Document:
    """A document by the name under which it is cited."""

    source: str
    sections: tuple[Section, ...]


def read(documents: object) -> tuple[list[Document], list[str]]:
    """Read documents.

    Parameters
    ----------
    documents : str, Path, DataFrame, list or mapping
        A folder or a file; ``support-desk``, the built-in handbook; a DataFrame or a list of dicts with a column of
        `TEXT` and, if it has names, one of `SOURCE`; a list of files or of texts; texts by name.

    Returns
    -------
    tuple of list of Document and list of str
        The documents, and what was left out of them.

    Raises
    ------
    DataError
        When there is nothing to read, or a file cannot be read: which, and what to do.
    """
    if isinstance(documents, str) and documents in BUILTIN:
        documents = BUILTIN[documents]
    if isinstance(documents, str | Path):
        return _path(Path(documents).expanduser())
    if isinstance(documents, Mapping):
        return [_plain(str(name), text) for name, text in documents.items()], []
    if isinstance(documents, pd.DataFrame):
        return _table(documents)
    if not isinstance(documents, list | tuple):
        kinds = "a folder, a file, a DataFrame, a list of texts or files, or texts by name"
        raise DataError(f"documents: a {type(documents).__name__} is none of {kinds}")
    if documents and all(isinstance(one, Mapping) for one in documents):
        return _table(pd.DataFrame([dict(one) for one in documents]))
    found: list[Document] = []
    notes: list[str] = []
    for number, one in enumerate(documents):
        if isinstance(one, Path) or (isinstance(one, str) and _is_file(one)):
            more, said = _path(Path(one))
            found, notes = found + more, notes + said
        else:
            found.append(_plain(f"text {number}", one))
    return found, notes


def _is_file(text: str) -> bool:
    return "\n" not in text and len(text) < 1000 and Path(text).suffix.lower() in READERS and Path(text).is_file()


def _path(path: Path) -> tuple[list[Document], list[str]]:
    kinds = ", ".join(suffix[1:] for suffix in READERS)
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise DataError(f"{path} is none of {kinds}; save it as one of these, or pass its text")
        return [_file(path, path.name)], []
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; give the path of documents, or a variable that holds them")
    files = [one for one in sorted(path.rglob("*")) if one.is_file() and not _hidden(one.relative_to(path))]
    wanted = [one for one in files if one.suffix.lower() in READERS]
    if not wanted:
        raise DataError(f"{path} holds no document; it needs files of {kinds}")
    other = [one.relative_to(path).as_posix() for one in files if one not in wanted]
    some = ", ".join(other[:NAMED]) + (", …" if len(other) > NAMED else "")
    files_left = "1 file is" if len(other) == 1 else f"{len(other):,} files are"
    notes = [f"{files_left} none of {kinds}, and left out: {some}"] if other else []
    return [_file(one, one.relative_to(path).as_posix()) for one in wanted], notes


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _file(path: Path, source: str) -> Document:
    try:
        return Document(source, tuple(READERS[path.suffix.lower()](path)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _table(frame: pd.DataFrame) -> tuple[list[Document], list[str]]:
    text = next((name for name in TEXT if name in frame), None)
    if text is None:
        wanted = f"rename that of the texts to {TEXT[0]}"
        raise DataError(f"documents: no column is named {', '.join(TEXT)} (there are {_listed(frame)}); {wanted}")
    source = next((name for name in SOURCE if name in frame), None)
    names = [str(one) for one in frame[source]] if source else [f"row {number}" for number in range(len(frame))]
    unused = [str(name) for name in frame if name not in (text, source)]
    notes = [f"columns not used: {', '.join(unused)}"] if unused else []
    return [_plain(name, one) for name, one in zip(names, frame[text], strict=True)], notes


def _listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns))


def _plain(source: str, text: Any) -> Document:
    if not isinstance(text, str):
        raise DataError(f"documents: {source} is a {type(text).__name__}, not a text; drop it or convert it")
    return Document(source, (Section(text, line=1),))


# ---- files


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start:,}; save it as UTF-8") from None


def _txt(path: Path) -> Iterable[Section]:
    yield Section(_text_of(path), line=1)


def _markdown(path: Path) -> Iterable[Section]:
    """A section under each heading; what looks like one in a block of code is none."""
    above: list[tuple[int, str]] = []
    lines, begun, code = list[str](), 1, False
    for number, line in enumerate([*_text_of(path).split("\n"), "#"], start=1):
        code ^= bool(FENCE.match(line))
        found = None if code else HEADING.match(f"{line} " if line == "#" else line)
        if not found:
            lines.append(line)
            continue
        if any(map(str.strip, lines)):
            titles = _path_of(above)
            yield Section("\n".join(lines), titles, titles, begun)
        depth = len(found[1])
        above = [*(one for one in above if one[0] < depth), (depth, found[2])]
        lines, begun = [], number + 1
    if code and any(map(str.strip, lines[:-1])):  # a fence that is not closed
        titles = _path_of(above)
        yield Section("\n".join(lines[:-1]), titles, titles, begun)


def _path_of(headings: Iterable[tuple[int, str]]) -> str:
    return " › ".join(title for _, title in headings if title)


def _html(path: Path) -> Iterable[Section]:
    bs4 = _needs("bs4", "beautifulsoup4", path)
    page = bs4.BeautifulSoup(_text_of(path), "html.parser")
    for one in page(["script", "style", "nav", "template", "noscript", "head"]):
        one.decompose()
    blocks = ["h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "pre", "td", "th", "dt", "dd", "blockquote", "figcaption"]
    found = [one for one in page(blocks) if one.name[0] == "h" or not one.find(blocks)]
    if not found:
        yield Section(page.get_text("\n\n", strip=True))
        return
    named = [
        (int(one.name[1]) if re.fullmatch(r"h\d", one.name) else 0, one.get_text(" ", strip=True)) for one in found
    ]
    yield from _under_headings(named)


def _docx(path: Path) -> Iterable[Section]:
    docx = _needs("docx", "python-docx", path)
    try:
        document = docx.Document(str(path))
    except Exception as error:  # of zipfile, lxml and its own, as the file is damaged
        raise DataError(f"{path} is not a whole docx file ({error}); save it again") from None
    named = []
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            named += [(0, " | ".join(cell.text.strip() for cell in row.cells)) for row in block.rows]
        else:
            depth = re.fullmatch(r"Heading (\d)", block.style.name if block.style is not None else "")
            named.append((int(depth[1]) if depth else 0, block.text.strip()))
    yield from _under_headings(named)


def _under_headings(blocks: Iterable[tuple[int, str]]) -> Iterable[Section]:
    """Sections of blocks, each with the depth of its heading, 0 for a text."""
    above: list[tuple[int, str]] = []
    texts: list[str] = []
    for depth, text in [*blocks, (1, "")]:
        if not depth:
            texts.append(text)
            continue
        if any(texts):
            titles = _path_of(above)
            yield Section("\n\n".join(filter(None, texts)), titles, titles)
        above, texts = [*(one for one in above if one[0] < depth), (depth, text)], []


def _pdf(path: Path) -> Iterable[Section]:
    pypdf = _needs("pypdf", "pypdf", path)
    try:
        pages = [page.extract_text() for page in pypdf.PdfReader(path).pages]
    except pypdf.errors.PyPdfError as error:
        raise DataError(f"{path} is not a PDF that can be read ({error}); save it again without a password") from None
    if not any(map(str.strip, pages)):
        raise DataError(f"{path} holds no text, perhaps only scanned pages; run OCR over it first")
    for number, text in enumerate(pages, start=1):
        if text.strip():
            yield Section(text, place=f"page {number}")


def _needs(module: str, package: str, path: Path) -> Any:
    try:
        return __import__(module)
    except ModuleNotFoundError:
        raise DataError(f"{path} needs {package}, which is not installed; pip install 'peft_nb[documents]'") from None


READERS: dict[str, Callable[[Path], Iterable[Section]]] = {
    ".txt": _txt,
    ".md": _markdown,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".docx": _docx,
}
