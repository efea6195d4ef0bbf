"""Keys, tokens and passwords in texts, by the pattern of who issues them and by how random they are.

The patterns follow gitleaks' rules (https://github.com/gitleaks/gitleaks, MIT) and the formats that the services
document. What only looks like a secret is left alone: a body with few different characters ("sk-xxxxxxxx…"),
documented examples, values that are variables or words ("password = os.environ[…]", "api_key: your-key-here"), and
passwords that were made up on request ("Generate a password": "Password: …").
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

from peft_nb.data.quality.pii import Match, apart, denied

# Kind and pattern; the group, where there is one, is the secret part.
_PATTERNS = {
    "PRIVATE_KEY": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]{20,}?-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----|(?:\s+[\w+/=-]{16,})+)",
    "AWS_KEY": r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",
    "GITHUB_TOKEN": r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{60,}\b",
    "GITLAB_TOKEN": r"\bgl(?:pat|ptt|dt|rt|cbt)-[\w-]{20,}",
    "SLACK_TOKEN": r"\bxox[abeoprs]-[\w-]{20,}|\bhooks\.slack\.com/(?:services|workflows)/[\w/+]{40,}",
    "ANTHROPIC_KEY": r"\bsk-ant-[\w-]{32,}",
    "OPENAI_KEY": r"\bsk-(?!ant-)(?:(?:proj|svcacct|admin|None)-[\w-]{20,}|[A-Za-z0-9]{32,})",
    "HF_TOKEN": r"\b(?:hf|api_org)_[A-Za-z]{34}\b",
    "GOOGLE_KEY": r"\bAIza[\w-]{35}|\bGOCSPX-[\w-]{28}|\bya29\.[\w-]{30,}",
    "STRIPE_KEY": r"\b(?:sk|rk)_(?:live|test|prod)_[A-Za-z0-9]{16,}\b|\bwhsec_[A-Za-z0-9+/=]{24,}",
    "SENDGRID_KEY": r"\bSG\.[\w-]{16,32}\.[\w-]{32,64}",
    "NPM_TOKEN": r"\bnpm_[A-Za-z0-9]{36}\b",
    "PYPI_TOKEN": r"\bpypi-AgE[\w-]{50,}",
    "TELEGRAM_TOKEN": r"\b\d{8,10}:AA[\w-]{33}",
    "JWT": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{16,}",
    "PASSWORD_IN_URL": r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s:/@]{0,64}:([^\s/@]{3,128})@[\w.-]+",
}
_COMPILED = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}

_PASSWORD = "pass(?:word|wd|phrase|wort)|pwd|contraseña|mot de passe|senha|wachtwoord|пароль"
# "password = …", '"api_key": "…"', "my passphrase is …"
_ASSIGNED = re.compile(
    rf"(?:(?P<password>{_PASSWORD})"
    r"|api[_ -]?key|(?:access|account|private|secret|auth)[_ -]?(?:key|token)"
    r"|client[_ -]?secret|secret|token|authorization|credentials?)"
    r"[\"']?\s*(?:[:=]+>?|\bis\b:?)\s*(?:(?:bearer|basic)\s+)?[\"'`]?(?P<value>[^\s\"'`,;<>(){}\[\]]{8,256})",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(
    r"example|sample|dummy|your|change.?me|placeholder|redacted|xxxx|\*{3}|\.{3}|…|0123456789"
    r"|\$[{(]|^\$|%\(|\bos\.|environ|getenv|config[.\[]|secrets?\."
    # words that stand for a password: "mysecretpassword1", "P@ssw0rd!", "password123"
    r"|^(?:my|the|super|user|some|new|db|p[a@]ss(?:w[o0]rd|phrase)?|pwd|s[e3]cr[e3]t|token|key|hunter|qwerty|foo|bar|abc"
    r"|[_-])+[\d!@#$%_-]*$|^(?:admin|guest|mysql|postgres|redis|root)$",
    re.IGNORECASE,
)
# "Generate a password with …", "a strong password": what follows was made up.
_MADE_UP = re.compile(
    r"\b(?:(?:generat\w+|creat(?:e|ing)|suggest|invent|propose|make up|come up with|write|give me|provide)\b"
    r"[^.?!;\n]{0,40}?\b(?:an?|some|several|random|\d+|one|two|three|five|ten)\b|strong|secure|complex|random\w*|memorable|generated"
    r"|sample|example|fictional|starkes|sicheres|zufälliges|segura|fuerte)\b"
    rf"(?:[\s,]+[\w-]+){{0,5}}?[\s,]+(?:{_PASSWORD}|passcode|api[ _-]?key|token|secret)",
    re.IGNORECASE,
)
# Of jwt.io and of Stripe's documentation.
_DOCUMENTED = ("SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c", "4eC39HqLyjWDarjtT1zdp7dc", "BQokikJOvBiI2HlWgH4olfQ2")
_LEAST_BITS = 3.0  # Shannon entropy a character of a key; English words lie under it, 20 random letters and digits over
_LEAST_PASSWORD_BITS = 2.5  # passwords are short: eight different characters have three bits at most


def secrets(text: str, before: str = "", allow: Iterable[str] = ()) -> list[Match]:
    """Find keys, tokens and passwords in a text.

    Parameters
    ----------
    text : str
        One text, such as a message or a cell.
    before : str
        What its row says before it: a password that is made up on request is no secret.
    allow : iterable of str
        What is none, as for :func:`.pii.denied`.

    Returns
    -------
    list of Match
        By place, without overlaps; kinds are such as ``AWS_KEY, GITHUB_TOKEN, JWT, PRIVATE_KEY, PASSWORD, API_KEY``.
        Of an assignment and of an address only the secret part is matched.
    """
    found: list[Match] = []
    for kind, pattern in _COMPILED.items():
        for match in pattern.finditer(text):
            group = match.lastindex or 0
            body = match[group]
            least = _LEAST_PASSWORD_BITS if kind == "PASSWORD_IN_URL" else _LEAST_BITS
            if kind == "PRIVATE_KEY" or (
                bits(body) >= min(least, 0.9 * math.log2(len(body))) and not _is_example(body)
            ):
                found.append(Match(kind, *match.span(group)))
    for match in _ASSIGNED.finditer(text):
        value = match["value"].rstrip(".!?:")
        kind = "PASSWORD" if match["password"] else "API_KEY"
        start = match.start("value")
        if _is_random(value, kind) and not _is_example(value) and not _MADE_UP.search(f"{before}\n{text[:start]}"):
            found.append(Match(kind, start, start + len(value)))
    return denied(text, apart(found), allow)


def bits(text: str) -> float:
    """Shannon entropy of a text's characters, in bits a character (C. Shannon, 1948)."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def _is_random(value: str, kind: str) -> bool:
    """Tell a secret from a word: letters with digits, and few characters that repeat."""
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    if kind == "PASSWORD":
        return mixed and len(value) >= 8 and bits(value) >= _LEAST_PASSWORD_BITS
    return mixed and len(value) >= 16 and bits(value) >= _LEAST_BITS


def _is_example(value: str) -> bool:
    return bool(_EXAMPLE.search(value)) or any(known in value for known in _DOCUMENTED)
