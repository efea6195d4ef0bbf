"""Personal data in texts: e-mail addresses, phone, card and account numbers, IP addresses, national ids.

The recognisers are presidio-analyzer's (extra ``privacy``), on a blank spaCy pipeline that needs no model and no
network. Only patterns are looked for, most with a checksum, no names of people. What is digits alone and could as well
be an order number (ids of ten digits, phone numbers without separators) counts only near a word that says what it is.

Left alone is what belongs to nobody: what the standards set aside for examples (RFC 2606, 5737, 3849; 555-01xx; Ofcom's
numbers for drama; the card numbers of payment services' tests), addresses of private networks, and numbers that are
calculated with: decimals, arithmetic, and for phone numbers whatever stands in code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib.util import find_spec
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from peft_nb.errors import DataError

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine, RecognizerResult


@dataclass(frozen=True)
class Match:
    """One find: what it is, such as ``EMAIL``, and where it begins and stops in the text."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True)
class _Recognizer:
    """A recogniser of presidio's by its class; where it ``needs_context``, finds count only near a word of that."""

    name: str
    kind: str
    context: str = ""
    needs_context: bool = False


_ID = "NATIONAL_ID"
_DIAL = "phone telephone tel mobile cell cellphone call calling dial ring fax sms text whatsapp telefon handy teléfono"
_RECOGNIZERS = (
    _Recognizer("EmailRecognizer", "EMAIL", "email mail"),
    _Recognizer("PhoneRecognizer", "PHONE", _DIAL),
    _Recognizer("CreditCardRecognizer", "CARD", "credit card visa mastercard amex"),
    _Recognizer("IbanRecognizer", "IBAN", "iban account"),
    _Recognizer("IpRecognizer", "IP", "ip ipv4 ipv6 address"),
    _Recognizer("UsSsnRecognizer", _ID, "ssn social security"),
    _Recognizer("UsItinRecognizer", _ID, "itin taxpayer tax", needs_context=True),
    _Recognizer("UkNinoRecognizer", _ID, "nino insurance ni"),
    _Recognizer("NhsRecognizer", _ID, "nhs health", needs_context=True),
    _Recognizer("EsNifRecognizer", _ID, "dni nif identidad"),
    _Recognizer("EsNieRecognizer", _ID, "nie extranjero"),
    _Recognizer("ItFiscalCodeRecognizer", _ID, "codice fiscale cf"),
    _Recognizer("PlPeselRecognizer", _ID, "pesel", needs_context=True),
    _Recognizer("FiPersonalIdentityCodeRecognizer", _ID, "hetu henkilötunnus"),
    _Recognizer("InAadhaarRecognizer", _ID, "aadhaar uidai", needs_context=True),
    _Recognizer("InPanRecognizer", _ID, "pan"),
    _Recognizer("SgFinRecognizer", _ID, "nric fin", needs_context=True),
    _Recognizer("AuTfnRecognizer", _ID, "tfn tax", needs_context=True),
    _Recognizer("AuMedicareRecognizer", _ID, "medicare", needs_context=True),
)
_LEAST_SCORE = 0.4  # presidio's for a phone number, and for a weak pattern beside a word of its context
# What all finds have one of; to ask presidio about every text would be slow, and slowest for phone numbers.
_POSSIBLE = re.compile(
    r"@|:[0-9a-f]{0,4}:|\.\d{1,3}\.|\d(?:[\s().\-/:]{0,3}\d){5}|[A-Z]{5}\d{4}"
    r"|[A-Z]{6}(?:[\dL-V]{2}[A-Z]){2}[\dL-V]{3}[A-Z]",  # the Italian tax number, whose digits may be written as letters
    re.IGNORECASE,
)
_DIALLED = re.compile(r"(?<!\d)(?!\d{4}-\d\d-\d\d|\d\d?[./]\d\d?[./]\d{4})\+?\d(?:[\s().\-/]{0,3}\d){6}")
_DIAL_WORDS = re.compile(rf"\b(?:{'|'.join(_DIAL.split())})\b", re.IGNORECASE)
_REGIONS = ("US", "GB", "DE", "FR", "IN")  # whose national ways to write a phone number are known; with a + all are
_LOGIN = re.compile(r"://[^\s/@]*$")  # before the @ of an address such as postgres://user:password@host
_DOTTED = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_VERSION = re.compile(r"(?:\bv|version|release|firmware|build)[\s:.]*$|\d\.$", re.IGNORECASE)
_OBJECT = re.compile(r"\.\d")  # 1.3.6.1.5.5.7.3, the id of an object

# Of nobody. Labels of domains: RFC 2606's, what templates have in its place, and Microsoft's documentation.
_EXAMPLE_DOMAIN = re.compile(
    r"[@.](?:example|domain|your-?domain|mydomain|your-?company|contoso|fabrikam)\.", re.IGNORECASE
)
_RESOLVERS = ("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "1.2.3.4")  # public, and everybody's example
_EXAMPLE_PHONE = re.compile(  # 555-01xx; Ofcom's; counted upwards
    r"(?:55501\d\d|2079460\d{3}|7700900\d{3}|1\d\d4960\d{3}|(?:289|292)0180\d{3}|1234567890|0123456789)$"
)
_TEST_CARDS = (  # as Stripe, PayPal, Adyen and Braintree document them
    "4242424242424242", "4000056655665556", "4000000000000002", "4000000000009995", "4111111111111111",
    "4012888888881881", "4222222222222", "4005519200000004", "5555555555554444", "5105105105105100",
    "5200828282828210", "2223003122003222", "378282246310005", "371449635398431", "378734493671000",
    "6011111111111117", "6011000990139424", "30569309025904", "38520000023237", "3530111333300000",
    "3566002020360505", "6200000000000005", "5454545454545454", "4917610000000000",
)  # fmt: skip
_CARD = re.compile(r"\d+|\d{4}([ -])(?:\d{4}\1){2}\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5}")  # as cards write it, or in one

# Numbers that are calculated with.
NEAR = 40  # characters looked at on both sides
_COUNTED = ("PHONE_NUMBER", "CREDIT_CARD", "US_SSN")
_ADDRESSES = ("EMAIL_ADDRESS", "IP_ADDRESS", "IBAN_CODE")  # have points of their own, or none
_DECIMAL = re.compile(r"(?<![\d.])\d*\.\d+(?!\.?\d)")
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:[ ,.]\d{3})+")  # thousands
_LISTED = re.compile(  # 1 2 3 4 5; columns of a table; pages and years
    r"(?:(?<!\d)\d\D+){3}|\s{2}|\d\)?\.\s|\((?:19|20)\d\d\)|^[1-9]\d* ?/ ?\d+$"
)
_CALCULATED = re.compile(
    r"(?:[=^%×÷±√~\\_@$&]\s*|[\d)\]] *[-+*/<>] *|[/#]|[a-z]-|(?:isbn|issn|doi)\W*)$", re.IGNORECASE
)
_CALCULATES = re.compile(r"\s*[=^%×÷]|(?: \* |\*| \+ )[\d(]|_")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)


def available() -> bool:
    """Tell whether the extra ``privacy`` is installed."""
    return find_spec("presidio_analyzer") is not None


def personal(text: str, allow: Iterable[str] = ()) -> list[Match]:
    """Find personal data in a text.

    Parameters
    ----------
    text : str
        One text, such as a message or a cell.
    allow : iterable of str
        What is none, as for :func:`denied`.

    Returns
    -------
    list of Match
        By place, without overlaps; kinds are ``EMAIL, PHONE, CARD, IBAN, IP, NATIONAL_ID``.

    Raises
    ------
    DataError
        When the extra ``privacy`` is not installed.
    """
    if not _POSSIBLE.search(text):
        return []
    engine, kinds, needs_context = _engine()
    entities = [entity for entity in kinds if entity != "PHONE_NUMBER" or _may_be_dialled(text)]
    found = engine.analyze(
        text.encode("utf-8", "replace").decode("utf-8"),  # spaCy refuses halves of surrogate pairs
        language="en",
        entities=entities,
        score_threshold=_LEAST_SCORE,
        return_decision_process=True,
    )
    found.sort(key=lambda one: -one.score)
    matches = apart(
        Match(kinds[one.entity_type], one.start, one.end)
        for one in found
        if (one.entity_type not in needs_context or _has_context(one)) and not _is_other(text, one)
    )
    return denied(text, matches, allow)


def denied(text: str, matches: Iterable[Match], allow: Iterable[str]) -> list[Match]:
    """Leave out of some matches those that are allowed.

    Parameters
    ----------
    text : str
        The text.
    matches : iterable of Match
        Finds in it.
    allow : iterable of str
        Whole finds, with ``*`` and ``?`` for any letters and any one, such as ``*@tidewater.shop``; case is ignored.

    Returns
    -------
    list of Match
        The others.
    """
    patterns = [pattern.casefold() for pattern in allow]
    return [
        match
        for match in matches
        if not any(fnmatchcase(text[match.start : match.stop].casefold(), pattern) for pattern in patterns)
    ]


def redact(text: str, matches: Iterable[Match]) -> str:
    """Put ``<KIND>`` in the place of every match.

    Parameters
    ----------
    text : str
        The text.
    matches : iterable of Match
        Finds in this text of :func:`personal` or of `.secrets.secrets`, in any order; they may overlap.

    Returns
    -------
    str
        The text without them.
    """
    for match in reversed(apart(matches)):
        text = f"{text[: match.start]}<{match.kind}>{text[match.stop :]}"
    return text


def masked(text: str, match: Match) -> str:
    """Show a match by its first letter alone; of an e-mail address, by the first letters of both its halves.

    Parameters
    ----------
    text : str
        The text.
    match : Match
        A find in it.

    Returns
    -------
    str
        Such as ``a…@e…`` or ``4…``.
    """
    found = text[match.start : match.stop]
    return "@".join(f"{half[:1]}…" for half in found.split("@")) if match.kind == "EMAIL" else f"{found[:1]}…"


def apart(matches: Iterable[Match]) -> list[Match]:
    """Join matches that overlap, so that no letter of any stays in clear when they are redacted.

    Parameters
    ----------
    matches : iterable of Match
        Finds in one text, the more certain first.

    Returns
    -------
    list of Match
        By place; what was joined has the kind of its longest part, of the first among equals.
    """
    joined: list[tuple[int, Match]] = []
    for match in sorted(matches, key=lambda match: match.start):
        length = match.stop - match.start
        if joined and match.start < joined[-1][1].stop:
            longest, before = joined.pop()
            kind = match.kind if length > longest else before.kind
            match = Match(kind, before.start, max(before.stop, match.stop))
            length = max(length, longest)
        joined.append((length, match))
    return [match for _, match in joined]


def _may_be_dialled(text: str) -> bool:
    runs = _DIALLED.findall(text)
    return any(not run.isdigit() for run in runs) or (bool(runs) and bool(_DIAL_WORDS.search(text)))


def _has_context(one: RecognizerResult) -> bool:
    return bool(one.analysis_explanation.supportive_context_word)


def _is_other(text: str, one: RecognizerResult) -> bool:
    """Tell personal data from what only looks like it, or is known to be nobody's."""
    found = text[one.start : one.end]
    if one.entity_type not in _ADDRESSES and any(
        one.start < decimal.end() and decimal.start() < one.end
        for decimal in _DECIMAL.finditer(text, max(0, one.start - NEAR), one.end + NEAR)
    ):
        return True
    if one.entity_type in _COUNTED and not _has_context(one) and _is_calculated(text, one):
        return True
    if one.entity_type == "EMAIL_ADDRESS":
        nobody = found.startswith("git@") or _EXAMPLE_DOMAIN.search(found, found.rindex("@"))
        return bool(nobody or _LOGIN.search(text[: one.start]))
    if one.entity_type == "PHONE_NUMBER":
        bare = found.removeprefix("+ ").isdigit()  # "+ 6291070513" is of a sum
        in_code = "`" in text and any(
            code.start() < one.end and one.start < code.end() for code in _CODE.finditer(text)
        )
        nobody = _EXAMPLE_PHONE.search(re.sub(r"\D", "", found))
        dotted = _DOTTED.fullmatch(found.partition("/")[0])
        return (bare and not _has_context(one)) or in_code or bool(dotted or nobody)
    if one.entity_type == "CREDIT_CARD":
        return re.sub(r"\D", "", found) in _TEST_CARDS or not _CARD.fullmatch(found)
    if one.entity_type == "IP_ADDRESS":
        host = ip_interface(found).ip
        local = not host.is_global or host.is_multicast or found in _RESOLVERS
        slices = host.version == 6 and int(host) >> 125 != 1  # rows[::2]; addresses of hosts are in 2000::/3
        return bool(local or slices or _VERSION.search(text[: one.start]) or _OBJECT.match(text, one.end))
    return False


def _is_calculated(text: str, one: RecognizerResult) -> bool:
    """Tell the terms of a calculation, lists and tables from numbers of people."""
    found, before = text[one.start : one.end], text[max(0, one.start - NEAR) : one.start]
    called = found.startswith("(") and before[-1:].isalnum()  # sqrt(2127365000)
    sums = called or _CALCULATED.search(before) or _CALCULATES.match(text, one.end)
    return bool(sums or _GROUPED.fullmatch(found) or _LISTED.search(found))


@cache
def _engine() -> tuple[AnalyzerEngine, dict[str, str], frozenset[str]]:
    """Build the analyzer once; with it the kind of each of presidio's entities, and which need a word beside them."""
    if not available():
        raise DataError("personal data: presidio-analyzer is not installed; run: pip install 'peft_nb[privacy]'")
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, Pattern, RecognizerRegistry, predefined_recognizers
    from presidio_analyzer.context_aware_enhancers import LemmaContextAwareEnhancer
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from spacy.language import Language

    # presidio checks addresses with tldextract.extract, which fetches the list of suffixes from the network at its
    # first use; this one reads the list that comes with the package and writes no cache.
    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmail(predefined_recognizers.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).fqdn)

    @Language.component("peft_nb_lower_case")
    def lower_case(doc: Any) -> Any:  # context is looked for among lemmas, and a blank pipeline writes none
        for token in doc:
            token.lemma_ = token.lower_
        return doc

    pipeline = spacy.blank("en")
    pipeline.add_pipe("peft_nb_lower_case")
    pipeline.vocab["call"].is_stop = False
    nlp = SpacyNlpEngine()
    nlp.nlp = {"en": pipeline}

    own: dict[str, Any] = {
        "EmailRecognizer": OfflineEmail,
        "PhoneRecognizer": partial(predefined_recognizers.PhoneRecognizer, supported_regions=_REGIONS),
        # Its weaker patterns take any word of ten letters and digits for an id.
        "InPanRecognizer": partial(
            predefined_recognizers.InPanRecognizer,
            patterns=[Pattern("PAN", r"\b[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]\b", 0.5)],
        ),
    }
    kinds, needs_context, recognizers = {}, set(), []
    for entry in _RECOGNIZERS:
        make = own.get(entry.name) or getattr(predefined_recognizers, entry.name)
        recognizer = make(context=entry.context.split(), supported_language="en")
        (entity,) = recognizer.supported_entities
        kinds[entity] = entry.kind
        needs_context |= {entity} if entry.needs_context else set()
        recognizers.append(recognizer)
    engine = AnalyzerEngine(
        registry=RecognizerRegistry(recognizers),
        nlp_engine=nlp,
        context_aware_enhancer=LemmaContextAwareEnhancer(context_suffix_count=3, context_matching_mode="whole_word"),
    )
    return engine, kinds, frozenset(needs_context)
