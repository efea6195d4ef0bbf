from __future__ import annotations

import random
import string

import pytest

from peft_nb.data.quality.pii import masked, redact
from peft_nb.data.quality.secrets import bits, secrets

RNG = random.Random(3)


def any_of(count: int, letters: str = string.ascii_letters + string.digits) -> str:
    """Random letters: no secret, in full or in part, stands in this file."""
    return "".join(RNG.choices(letters, k=count))


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("AWS_KEY", "AKIA" + any_of(16, string.ascii_uppercase)),
        ("GITHUB_TOKEN", "ghp_" + any_of(36)),
        ("GITHUB_TOKEN", "github_pat_" + any_of(22) + "_" + any_of(59)),
        ("GITLAB_TOKEN", "glpat-" + any_of(20)),
        ("SLACK_TOKEN", "xoxb-" + any_of(12, string.digits) + "-" + any_of(24)),
        ("ANTHROPIC_KEY", "sk-ant-api03-" + any_of(93) + "AA"),
        ("OPENAI_KEY", "sk-proj-" + any_of(48)),
        ("OPENAI_KEY", "sk-" + any_of(48)),
        ("HF_TOKEN", "hf_" + any_of(34, string.ascii_letters)),
        ("GOOGLE_KEY", "AIza" + any_of(35)),
        ("STRIPE_KEY", "sk_live_" + any_of(24)),
        ("SENDGRID_KEY", "SG." + any_of(22) + "." + any_of(43)),
        ("NPM_TOKEN", "npm_" + any_of(36)),
        ("PYPI_TOKEN", "pypi-AgE" + any_of(60)),
        ("TELEGRAM_TOKEN", "123456789:AA" + any_of(33)),
        ("JWT", f"eyJ{any_of(20)}.eyJ{any_of(40)}.{any_of(43)}"),
        ("PRIVATE_KEY", f"-----BEGIN RSA PRIVATE {'KEY'}-----\n{any_of(64)}\n-----END RSA PRIVATE {'KEY'}-----"),
        ("PRIVATE_KEY", f"-----BEGIN OPENSSH PRIVATE {'KEY'}-----\n{any_of(64)}\n{any_of(64)}"),
    ],
)
def test_tokens(kind: str, secret: str) -> None:
    text = f"Use {secret} from now on."
    (match,) = secrets(text)
    assert match.kind == kind
    assert redact(text, [match]) == f"Use <{kind}> from now on."
    assert masked(text, match) == f"{secret[0]}…"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("postgres://bob:{}@db.example.com/x", "PASSWORD_IN_URL"),
        ("password={}", "PASSWORD"),
        ("export DB_PASSWORD='{}'", "PASSWORD"),
        ("My passphrase is {}.", "PASSWORD"),
        ("Mein Passwort: {}", "PASSWORD"),
        ('{{"api_key": "{}"}}', "API_KEY"),
        ("Authorization: Bearer {}", "API_KEY"),
        ("aws_secret_access_key = {}", "API_KEY"),
        ("client_secret => {}", "API_KEY"),
    ],
)
def test_only_the_secret_part_of_an_assignment(text: str, kind: str) -> None:
    written = text.format("Tr0ub4dor&3x" + "9Kd7Qz1mWv" * (kind == "API_KEY"))
    assert redact(written, secrets(written)) == text.format(f"<{kind}>")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "password: at least 12 characters",
        "My password is wrong, and the password is case-sensitive.",
        "api_key = os.environ['KEY_1']",
        "token = config['token_2026']",
        "token: <your token>, or your-api-key-2026-goes-here",
        "access key: ${ACCESS_KEY_1}",
        "password = getpass.getpass()",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "sk-" + "x" * 40,
        "ghp_" + "0" * 36,
        "9fceb02d0ae598e95dc970b74767f19372d61af8",
        "550e8400-e29b-41d4-a716-446655440000",
        "https://host.com:443/x@y and http://localhost:8080/a@b",
        "https://user:password@host",
        "The token is valid for 30 minutes; max_new_tokens=128000.",
        "The secret is out, the key to success is patience.",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ"
        ".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
        "connect(user='me', password='mysecretpassword1') # or password='password123', or P@ssw0rd!",
        "postgresql://postgres:postgres@localhost:5432",
        "Here is a strong password: xK9#mP2$vL5nQ8",
        "A randomly generated, very long password is 7T#nK9@s2",
        "Ein starkes Passwort: 7T#nK9@s2",
    ],
)
def test_left_alone(text: str) -> None:
    assert secrets(text) == []


@pytest.mark.parametrize(
    ("before", "text", "kinds"),
    [
        ("Generate a password with 8 characters.", "Password: 7T#nK9@s2", []),
        ("Come up with three random passwords", "The first password is 7T#nK9@s2", []),
        ("I lost my password.", "Your password: 7T#nK9@s2", ["PASSWORD"]),
        ("", "My password is Harbour!123, so create a new, strong password", ["PASSWORD"]),
        ("", "I created an account there; the password is Harbour!123", ["PASSWORD"]),
        ("Give me an example of a good password", "AKIA" + any_of(16, string.ascii_uppercase), ["AWS_KEY"]),
    ],
)
def test_a_password_that_was_made_up_on_request_is_no_secret(before: str, text: str, kinds: list[str]) -> None:
    assert [match.kind for match in secrets(text, before)] == kinds


def test_what_is_allowed_is_left_alone() -> None:
    text = "password=Tr0ub4dor&3x"
    assert secrets(text, allow=["tr0ub*"]) == []
    assert len(secrets(text, allow=["tr0ub"])) == 1


def test_a_token_that_is_assigned_is_one_find() -> None:
    text = f"token: ghp_{any_of(36)}"
    assert [match.kind for match in secrets(text)] == ["GITHUB_TOKEN"]


def test_bits() -> None:
    assert bits("aaaa") == 0
    assert bits("abcd") == 2
    assert bits("aabb") == 1
