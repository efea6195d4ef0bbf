"""Questions on what a chunk says, made from its own sentences: for English, by rules, with nothing made up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from peft_nb.documents.chunks import SENTENCES, Chunk

LEAST, MOST = 4, 45  # words of a sentence that is asked about
SUBJECT = 8  # words of what a sentence is about, at most
TOLD = 60  # words of an answer that tells what a section says

_MARKUP = re.compile(r"^\s*(?:[#>*+-]+|\d+[.)]|\|)\s*|[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}")
_POINTING = (
    r"(?:it|its|this|that|these|those|they|them|their|there|he|she|his|her|we|you|i|such|both|here|then|so|all"
    r"|in|on|at|for|from|with|without|by|before|after|during|of|to|if|when|while|as)\b"
)
_WORDS = r"(?!" + _POINTING + r")[^,;:.!?()]+?"
_TIME = re.compile(r"\b(?:second|minute|hour|day|week|month|year)s?\b", re.IGNORECASE)
_UNIT = r"%|(?!(?:in|on|at|and|or|to|of|for|from|by|with|where|which|when|the|an?|is|are)\b)[A-Za-zµ°]+"
_FACT = re.compile(rf"(?<![\w.])(?:[$€£]\s?)?\d+(?:[.,:/-]\d+)*(?:\s?(?:{_UNIT}))?(?!\w)")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][\w-]+(?: [A-Z][\w-]+)*")
_ARTICLE = re.compile(r"(?:The|A|An|Our|Your|Each|Every|Any|All)(?= )")
_NOT_A_SUBJECT = re.compile(r"\b(?:which|that|who|if|when|while|because|and then|is|are|was|were)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Drafted:
    """A question and its answer, before anybody looked whether they are good."""

    question: str
    answer: str


def written(chunk: Chunk) -> list[Drafted]:
    """Write what can be asked about a chunk.

    Of each English sentence that says what something is, costs or takes, or what happens if, one question, whose answer
    is the sentence; of each other that names a number or a name, a cloze; and one on what its section says.

    Parameters
    ----------
    chunk : Chunk
        What is asked about.

    Returns
    -------
    list of Drafted
        In the order of its sentences, the one on the section last; empty where nothing fits.
    """
    sentences = [plain for one in SENTENCES.split(chunk.text) if (plain := _plain(one))]
    found = [draft for one in sentences for draft in _asked(one, _section(chunk))]
    if (section := _section(chunk)) and sentences:
        said, words = list[str](), 0
        for one in sentences:
            words += len(one.split())
            if said and words > TOLD:
                break
            said.append(one)
        found.append(Drafted(f"What do the documents say about {section}?", " ".join(said)))
    return found


def _plain(sentence: str) -> str:
    """A sentence without its markup; nothing for what is none, or too short or long."""
    text = " ".join(_MARKUP.sub("", sentence).split())
    return text if text.endswith((".", "!")) and LEAST <= len(text.split()) <= MOST else ""


def _section(chunk: Chunk) -> str:
    return chunk.heading.rpartition(" › ")[2].strip(" .:#")


def _asked(sentence: str, section: str) -> Iterator[Drafted]:
    body = sentence.rstrip(".!")
    for pattern, ask in _PATTERNS:
        if (match := pattern.fullmatch(body)) and (question := ask(match)):
            yield Drafted(question, sentence)
            return
    where = f" (on {section})" if section else ""
    if match := next(iter([*_FACT.finditer(body), *_NAME.finditer(body)]), None):
        gap = f"{sentence[: match.start()]}___{sentence[match.end() :]}"
        yield Drafted(f"Which words belong in the gap{where}? {gap}", match[0])


def _subject(match: re.Match[str]) -> str:
    """What a sentence is about, as it stands within a question; nothing where it is not clear."""
    text: str = match["subject"]
    if len(text.split()) > SUBJECT or _NOT_A_SUBJECT.search(text):
        return ""
    common = _ARTICLE.match(text) or match["verb"].lower() in _PLURAL  # and so perhaps no name
    return text[0].lower() + text[1:] if common else text


def _what_is(match: re.Match[str]) -> str:
    subject = _subject(match)
    return subject and f"What can you tell me about {subject}?"


def _costs(match: re.Match[str]) -> str:
    subject = _subject(match)
    return subject and f"How much {'does' if match['verb'].endswith('s') else 'do'} {subject} cost?"


def _takes(match: re.Match[str]) -> str:
    subject = _TIME.search(match["rest"]) and _subject(match)
    return f"How long {'does' if match['verb'].endswith('s') else 'do'} {subject} take?" if subject else ""


_PLURAL = ("are", "were", "have", "cost", "take")
_BE = r"(?P<verb>is|are|was|were|has|have|can|must|may|will)"
_PATTERNS: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(rf"(?P<subject>{_WORDS}) (?P<verb>costs?) (?P<rest>.+)", re.IGNORECASE), _costs),
    (re.compile(rf"(?P<subject>{_WORDS}) (?P<verb>takes?) (?P<rest>.+)", re.IGNORECASE), _takes),
    (re.compile(r"If (?P<case>[^,]+), .+"), lambda match: f"What happens if {match['case']}?"),
    (re.compile(r"To (?P<aim>(?!be\b)[a-z][^,]+), .+"), lambda match: f"How do I {match['aim']}?"),
    (re.compile(rf"(?P<subject>{_WORDS}) {_BE} .+", re.IGNORECASE), _what_is),
]
