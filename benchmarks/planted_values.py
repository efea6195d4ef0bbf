"""Personal data and secrets of nobody, with the check digits that real ones have; written at random, kept nowhere."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence

Writer = Callable[[random.Random], str]

_SIGNS = {
    "#": string.digits,
    "%": string.digits[1:],
    "@": string.ascii_uppercase,
    "&": string.ascii_letters,
    "?": string.ascii_letters + string.digits,
    "^": string.ascii_uppercase + "234567",
}


def fill(rng: random.Random, pattern: str) -> str:
    """Put random signs for ``#`` (digit), ``%`` (not 0), ``@`` (capital), ``^`` (base 32), ``&`` (letter), ``?``."""
    return "".join(rng.choice(_SIGNS[sign]) if sign in _SIGNS else sign for sign in pattern)


def _dated(rng: random.Random, order: str) -> str:
    date = {"d": rng.randrange(1, 29), "m": rng.randrange(1, 13), "y": rng.randrange(40, 99)}
    return "".join(f"{date[part]:02}" for part in order)


def _total(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def _grouped(value: str, sign: str = " ") -> str:
    return sign.join(value[place : place + 4] for place in range(0, len(value), 4))


def _card(rng: random.Random) -> str:
    body = fill(rng, rng.choice(("4" + "#" * 14, "52" + "#" * 13)))
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(body)]
    return body + str(-sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10)


def _iban(rng: random.Random) -> str:
    country, pattern = rng.choice((("DE", "#" * 18), ("GB", "WEST" + "#" * 14), ("ES", "#" * 20)))
    body = fill(rng, pattern)
    value = int("".join(str(int(letter, 36)) for letter in f"{body}{country}00"))
    return f"{country}{98 - value % 97:02}{body}"


def _nhs(rng: random.Random) -> str:
    while True:  # one number in eleven has no check digit
        body = fill(rng, "%########")
        last = -_total(body, range(10, 1, -1)) % 11
        if last < 10:
            return f"{body}{last}"


def _pesel(rng: random.Random) -> str:
    body = _dated(rng, "ymd") + fill(rng, "%###")
    return body + str(-_total(body, (1, 3, 7, 9) * 2 + (1, 3)) % 10)


def _nif(rng: random.Random) -> str:
    body = fill(rng, "%#######")
    return body + "TRWAGMYFPDXBNJZSQVHLCKE"[int(body) % 23]


def _hetu(rng: random.Random) -> str:
    date, body = _dated(rng, "dmy"), fill(rng, "%##")
    return f"{date}-{body}" + "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(date + body) % 31]


def _email(rng: random.Random) -> str:
    name = rng.choice(("anna", "bob.k", "chidi_b", "dana+shop", "EMIL")) + fill(rng, "##")
    return f"{name}@{rng.choice(('tidewater-boats.com', 'mail.harbour-7.co.uk', 'gmail.com', 'post.bootsmann.de'))}"


def _ip4(rng: random.Random) -> str:
    return ".".join(str(part) for part in (rng.randrange(11, 120), *(rng.randrange(1, 255) for _ in range(3))))


def _pattern(*patterns: str) -> Writer:
    return lambda rng: fill(rng, rng.choice(patterns))


# By kind: how it is said, and what is said.
PERSONAL: dict[str, Sequence[tuple[str, Writer]]] = {
    "EMAIL": (("Write to {}.", _email), ("My address is {}, thanks.", _email), ("({})", _email)),
    "PHONE": (
        ("Reach me at {}.", _pattern("+44 20 7183 %###", "+49 30 9018%####", "+1 212 736 %###")),
        ("My number: {}", _pattern("(212) 736-%###", "(415) 626-%###", "212-736-%###")),
        ("Call me on {} after ten.", _pattern("212736%###", "020 7183 %###")),
    ),
    "CARD": (
        ("Charge my card {}.", _card),
        ("It was {} I paid with.", lambda rng: _grouped(_card(rng))),
        ("Visa {}", lambda rng: _grouped(_card(rng), "-")),
    ),
    "IBAN": (("Send it back to {}.", _iban), ("IBAN: {}", lambda rng: _grouped(_iban(rng)))),
    "IP": (
        ("I wrote from {}.", _ip4),
        ("The log says {} came in.", _pattern("85.214.1%.%#", "91.198.1%.2%")),
        ("Host {} did.", _pattern("2a01:4f8:%###::%##", "2003:%##:%###:%###::%#")),
    ),
    "NATIONAL_ID": (
        ("My SSN is {}.", _pattern("4%%-%#-%###", "2%%-%#-%###")),
        ("NHS number {}.", _nhs),
        ("NI number: {}", _pattern("AB%#####C", "CE%#####A")),
        ("Mi DNI es {}.", _nif),
        ("PESEL {}", _pesel),
        ("PAN {}.", _pattern("@@@P@%###K", "@@@C@%###T")),
        ("NRIC {}", _pattern("S%######D", "T0######J")),
        ("Hetu {}.", _hetu),
    ),
}

SECRETS: Sequence[tuple[str, Writer]] = (
    ("aws {}", _pattern("AKIA" + "^" * 16)),
    ("export GH={}", _pattern("ghp_" + "?" * 36)),
    ("CI uses {}.", _pattern("glpat-" + "?" * 20)),
    ("bot {}", _pattern("xoxb-" + "#" * 12 + "-" + "?" * 24)),
    ("key {}", _pattern("sk-ant-api03-" + "?" * 93 + "AA")),
    ("key {}", _pattern("sk-proj-" + "?" * 48)),
    ("login --token {}", _pattern("hf_" + "&" * 34)),
    ("maps?key={}", _pattern("AIza" + "?" * 35)),
    ("stripe {}", _pattern("sk_live_" + "?" * 24)),
    ("Authorization: Bearer {}", _pattern(f"eyJ{'?' * 20}.eyJ{'?' * 40}.{'?' * 43}")),
    ("Bearer token = {}", _pattern("%" + "?" * 30 + "%&")),
    ("{}", _pattern("-----BEGIN RSA PRIVATE KEY-----\n" + ("?" * 64 + "\n") * 4 + "-----END RSA PRIVATE KEY-----")),
    ("DATABASE_URL=postgres://shop:{}@db.example.com/orders", _pattern("?" * 14)),
    ("password={}", _pattern("?" * 5 + "%&" + "?" * 5)),
    ('"api_key": "{}"', _pattern("%&" + "?" * 30)),
    ("my password is {}", _pattern("Harbour!%##", "Sai1or#%##", "Light-house%##")),
    ("client_secret: {}", _pattern("?" * 10 + "-%&_" + "?" * 20)),
)
