from __future__ import annotations

import importlib
import socket

import pytest

from peft_nb.data.quality import pii
from peft_nb.data.quality.pii import Match, apart, available, denied, masked, personal, redact
from peft_nb.errors import DataError

pytest.importorskip("presidio_analyzer")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to anna@tidewater-boats.com or bob.k+x@mail.co.uk.", "Write to <EMAIL> or <EMAIL>."),
        ("Call me on 415-626-0132!", "Call me on <PHONE>!"),
        ("It is +44 20 7183 8750, mostly", "It is <PHONE>, mostly"),
        ("+49 30 901820, or 030/901820", "<PHONE>, or <PHONE>"),
        ("* Office: +49 30 901820", "* Office: <PHONE>"),
        ("| Anna | 212-736-5000 |", "| Anna | <PHONE> |"),
        ("**212-736-5000** - Anna", "**<PHONE>** - Anna"),
        ("call 4156260132", "call <PHONE>"),
        ("card 4539 5787 6362 1486", "card <CARD>"),
        ("Amex 3782-822463-10013", "Amex <CARD>"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN <IBAN>"),
        ("to GB82WEST12345698765432.", "to <IBAN>."),
        ("from 85.214.132.7 and 2a01:4f8:151::1f", "from <IP> and <IP>"),
        ("536-22-1234", "<NATIONAL_ID>"),
        ("my ssn is 536221234", "my ssn is <NATIONAL_ID>"),
        ("NHS number 943 476 5919", "NHS number <NATIONAL_ID>"),
        ("NINO AB123456C", "NINO <NATIONAL_ID>"),
        ("DNI 12345678Z", "DNI <NATIONAL_ID>"),
        ("NIE X1234567L", "NIE <NATIONAL_ID>"),
        ("cf RSSMRA85M01H501Q", "cf <NATIONAL_ID>"),
        ("PESEL 44051401359", "PESEL <NATIONAL_ID>"),
        ("aadhaar 2345 6789 0124", "aadhaar <NATIONAL_ID>"),
        ("PAN ABCPE1234F", "PAN <NATIONAL_ID>"),
        ("NRIC S1234567D", "NRIC <NATIONAL_ID>"),
        ("TFN 876 543 210", "TFN <NATIONAL_ID>"),
        ("medicare 2123 45670 1", "medicare <NATIONAL_ID>"),
        ("hetu 131052-308T", "hetu <NATIONAL_ID>"),
        ("half \ud83d pair, anna@tidewater-boats.com", "half \ud83d pair, <EMAIL>"),
    ],
)
def test_found(offline: None, text: str, redacted: str) -> None:
    assert redact(text, personal(text)) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mail me@localhost now",
        "git@github.com:anna/boats.git",
        "postgres://shop:hunter2@db.example.com/orders",
        "order number 4155550132",
        "order 536221234",
        "card 4111 1111 1111 1112",
        "IBAN DE89 3704 0044 0532 0130 01",
        "version 10.0.1.2, v1.2.3.4",
        "since release 22.2.25.29 of 2022-12-19",
        "127.0.0.1 and ::1",
        "at 12:30:45 on 2026-11-22, or 22.11.2026",
        "What is 4456 + 6291070513?",
        "ISBN 978-3-16-148410-0",
        "550e8400-e29b-41d4-a716-446655440000",
        "9fceb02d0ae598e95dc970b74767f19372d61af8",
        "A::B::C and 10 000 000 pieces",
        "9434765919 parcels",
        "44051401359 grains",
        # Decimals, arithmetic, lists, tables and code.
        "The angle is arccos(-0.357142857), about 1.936 rad.",
        "sqrt(2)=1.4142135623, x = 0.2127365000; 212.7365000",
        "$\\cos(0.8415550132)$ and −0.3571428571",
        "1/3 = 0.33333 2/3 = 0.66667, or -1.5 -2.5 -3.5 -4.5 -5.5",
        "[0.1, 0.25, 0.333333333] and 6.67430 10-11",
        "0.4111111111111111, 2.73349092e-16",
        "12 + 212-736-5000, or 212-736-5000 = 1",
        "1 2 3 4 5 6 7 8 9 10",
        "4969 553862089 801707 6008 848132, 14700805952 4774520 7425518 4109465",
        "sqrt(2127365000) / 3300, 1800/3300",
        "id-212-736-5000 and #2127365000",
        "Write `212-736-5000` or\n```python\nx = '+49 30 901820'\n```",
        "ISBN 0-306-40615-2, pp. 480–487). 1998, 56 (2012) 755-767",
        "rows[::2], rows[3::4], p[1::-1] and oid 1.3.6.1.5.5.7.3.1",
        # Of nobody: set aside for examples, tests and private networks.
        "jane.doe@example.com, joe@mail.example.org, x@example.net, you@yourdomain.com, a@contoso.com",
        "a@b.test, u@host.example, x@y.invalid",
        "phone 415-555-0132, +1-800-555-0199, call 123-456-7890, +44 20 7946 0958, 07700 900123",
        "card 4242 4242 4242 4242, 4111-1111-1111-1111, 378282246310005",
        "192.0.2.1, 198.51.100.7, 203.0.113.7, 10.0.0.1, 172.16.3.4, 192.168.1.10, 169.254.0.0/16, 8.8.8.8",
        "2001:db8::1f, fe80::1:2:3, fd00::12",
    ],
)
def test_left_alone(offline: None, text: str) -> None:
    assert personal(text) == []


def test_no_network_and_no_cache(offline: None) -> None:
    pii._engine.cache_clear()
    assert [match.kind for match in personal("anna@some.tidewater.co.uk")] == ["EMAIL"]


def test_what_is_allowed_is_left_alone(offline: None) -> None:
    text = "Write to help@Tidewater.shop, anna@gmail.com or +49 30 901820."
    allow = ["*@tidewater.shop", "+49 30 90182?"]
    assert redact(text, personal(text, allow)) == "Write to help@Tidewater.shop, <EMAIL> or +49 30 901820."
    assert denied("a b", [Match("X", 0, 1), Match("X", 2, 3)], ["B", "a b"]) == [Match("X", 0, 1)]


def test_most_texts_never_reach_presidio(monkeypatch: pytest.MonkeyPatch) -> None:
    personal("")

    class Refuses:
        def analyze(self, *_: object, **__: object) -> None:
            raise AssertionError

    monkeypatch.setattr(pii, "_engine", lambda: (Refuses(), {}, frozenset()))
    assert personal("We open at 7:20 in 2026, from pier 12.") == []


@pytest.mark.parametrize(
    ("kind", "found", "shown"),
    [("EMAIL", "anna@example.com", "a…@e…"), ("CARD", "4111 1111 1111 1111", "4…"), ("PHONE", "+44 20 7946", "+…")],
)
def test_masked_shows_first_letters_only(kind: str, found: str, shown: str) -> None:
    text = f"It is {found}."
    assert masked(text, Match(kind, 6, 6 + len(found))) == shown


def test_what_overlaps_goes_as_one() -> None:
    text = "see 0123456789 there"
    matches = [Match("SHORT", 4, 9), Match("LONG", 7, 14)]
    assert apart(matches) == [Match("LONG", 4, 14)]
    assert redact(text, matches) == "see <LONG> there"
    assert redact(text, reversed(matches)) == "see <LONG> there"
    assert apart([Match("A", 4, 9), Match("B", 4, 9), Match("C", 9, 10)]) == [Match("A", 4, 9), Match("C", 9, 10)]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pii, "find_spec", lambda name: None)
    pii._engine.cache_clear()
    assert not available()
    with pytest.raises(DataError, match=r"pip install 'peft_nb\[privacy\]'"):
        personal("write to anna.berg@tidewater.shop")
    monkeypatch.undo()
    assert available() == bool(importlib.util.find_spec("presidio_analyzer"))
