from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from peft_nb.serving.requests import CHAT, TEXT, RefusedError, checked, found, told
from peft_nb.serving.targets import Target
from tests.test_serving_targets import ONE

TURN = {"role": "user", "content": "Hello"}
ASKED = {"model": "m", "messages": [TURN]}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (CHAT, [], "the request is no JSON object"),
        (CHAT, {"model": "m"}, "messages: write a list such as"),
        (CHAT, {**ASKED, "messages": []}, "messages: write a list such as"),
        (CHAT, {**ASKED, "messages": ["Hello"]}, "messages: write a list such as"),
        (CHAT, {**ASKED, "temprature": 1}, "temprature: not known here; did you mean 'temperature'?; leave it out"),
        (CHAT, {**ASKED, "lora": []}, "lora: not known here"),
        (CHAT, {**ASKED, "cache_prompt": True}, "cache_prompt: not known here"),
        (CHAT, {**ASKED, "user": 3}, "user: not a JSON string"),
        (CHAT, {**ASKED, "stream": "yes"}, "stream: not a JSON boolean"),
        (TEXT, {"model": "m", "prompt": ["a", "b"]}, "prompt: write one text"),
    ],
)
def test_what_would_not_have_its_effect_is_refused(path: str, body: Any, said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        checked(path, body)
    assert refused.value.status == 400
    assert str(refused.value).startswith(said)


def test_an_unknown_model_is_404_with_those_that_exist() -> None:
    targets = {"tickets@production": Target("tickets@production", ONE)}
    assert found("tickets@production", targets, "base") is targets["tickets@production"]
    assert found("base", targets, "base") is None
    for word, said in (("tickets", "there is no model 'tickets' here"), (None, "model is missing"), (7, "no model 7")):
        with pytest.raises(RefusedError, match=said) as refused:
            found(word, targets, "base")
        error = refused.value.body["error"]
        assert (refused.value.status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert error["message"].endswith("write one of tickets@production, base")


def test_the_engine_is_told_to_answer_greedily_unless_asked_otherwise() -> None:
    asked = told(CHAT, {**ASKED, "max_completion_tokens": 7, "stream": True, "seed": None}, ONE)
    assert (asked["temperature"], asked["top_k"], asked["top_p"], asked["min_p"]) == (0.0, 0, 1.0, 0.0)
    assert (asked["max_tokens"], asked["stream_options"]) == (7, {"include_usage": True})
    assert not {"seed", "max_completion_tokens"} & asked.keys()
    assert told(TEXT, {"prompt": "a", "temperature": 0.7}, None)["temperature"] == 0.7


def test_a_version_brings_the_system_prompt_that_it_was_trained_with() -> None:
    kind = replace(ONE, system="Be kind.")
    system = {"role": "system", "content": "Be kind."}
    assert told(CHAT, ASKED, kind)["messages"] == [system, TURN]
    own = {"role": "developer", "content": "Be curt."}
    assert told(CHAT, {**ASKED, "messages": [own, TURN]}, kind)["messages"] == [own, TURN]
    assert told(CHAT, ASKED, ONE)["messages"] == [TURN]
    with pytest.raises(RefusedError, match="tickets@v1 was trained on plain texts.*use /v1/completions"):
        told(CHAT, ASKED, replace(ONE, chat=False))
    assert told(TEXT, {"prompt": "a"}, replace(ONE, chat=False))["prompt"] == "a"
