"""Which engine answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peft_nb.errors import RunError
from peft_nb.serving.engines import ENGINES, chosen
from peft_nb.serving.llama_cpp import LlamaCpp
from peft_nb.serving.vllm import Vllm
from tests.test_serving_targets import ONE

DORA = replace(ONE, merged="llama.cpp loads no DoRA", no_vllm="vLLM loads no adapter with use_dora")


def test_vllm_is_chosen_where_it_runs_and_takes_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vllm, "missing", staticmethod(lambda: ""))
    assert chosen(None, [ONE], ()) is Vllm
    assert chosen(None, [ONE, DORA], ()) is LlamaCpp
    assert chosen(None, [ONE], ["outtype"]) is LlamaCpp
    assert chosen("llama.cpp", [ONE], ["threads"]) is LlamaCpp
    with pytest.raises(RunError, match="^--outtype is none of vllm's options; leave it out$"):
        chosen("vllm", [ONE], ["outtype", "slots"])
    with pytest.raises(RunError, match="^tickets@v1: vLLM loads no adapter with use_dora; --engine llama.cpp serves"):
        chosen("vllm", [DORA], ())


def test_an_engine_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vllm, "missing", staticmethod(lambda: "--engine vllm: no"))
    assert chosen(None, [ONE], ()) is LlamaCpp
    with pytest.raises(RunError, match="^--engine vllm: no$"):
        chosen("vllm", [ONE], ())
    monkeypatch.setattr(LlamaCpp, "missing", staticmethod(lambda: "to serve, install llama.cpp"))
    with pytest.raises(RunError, match=r"^to serve, install llama\.cpp$"):
        chosen(None, [ONE], ())
    assert [*ENGINES] == ["vllm", "llama.cpp"]
