"""llama.cpp in a process of its own."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from peft_nb.errors import RunError
from peft_nb.events import silent
from peft_nb.runs.run import Run
from peft_nb.serving import adapter_gguf, targets
from peft_nb.serving.engine import Load
from peft_nb.serving.llama_cpp import LlamaCpp
from peft_nb.store import Store
from tests.serving import PROMPTS, TOKENS


def test_what_one_adapter_computed_is_not_another_s(desk: dict[str, Run], base: Path) -> None:
    store = Store(desk["manners@v2"].folder.parents[1])
    found = [targets.read(store, word, word).main for word in ("tickets@v1", "tickets@v2")]
    files = tuple(str(adapter_gguf.adapter_file(version, base)) for version in found)
    engine = LlamaCpp(Load(str(adapter_gguf.base_file(base, silent)), files, slots=1, context=512, threads=1))
    engine.wait()
    assert engine.scales({files[1]: 1.0}) == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
    assert engine.scales({}) == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]
    with pytest.raises(RunError, match=r"other\.gguf is not loaded"):
        engine.scales({"/other.gguf": 1.0})

    def ask(adapter: str | None, **fields: object) -> tuple[str, int]:
        body = {"messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": TOKENS, "temperature": 0, **fields}
        key = {"Authorization": f"Bearer {engine.key}"}
        scales = engine.scales({adapter: 1.0} if adapter else {})
        address = f"{engine.address}/v1/chat/completions"
        answer = httpx.post(address, json={"lora": scales, **body}, headers=key).json()
        return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    alone = {adapter: ask(adapter, cache_prompt=False) for adapter in (*files, None)}
    assert len({text for text, _ in alone.values()}) == 3
    for adapter in (files[0], files[1], None, files[1], files[0], None, None):
        assert ask(adapter, cache_prompt=False) == alone[adapter]
        assert alone[adapter][1] == 0
    kept = []
    for adapter in (files[0], files[0], files[1], files[1], None, None, files[0]):  # all in one slot
        with engine.slot({adapter: 1.0} if adapter else {}, {"prompt": "the same"}) as place:
            text, cached = ask(adapter, **place)
        assert text == alone[adapter][0]
        kept.append(cached > 0)
    assert kept == [False, True, False, True, False, True, False]

    def blend(**weights: float) -> str:
        adapters = {files[int(name[1:])]: weight for name, weight in weights.items()}
        with engine.slot(adapters, {"prompt": "blended"}) as place:
            return ask(None, **place)[0]

    assert blend(_0=1.0, _1=0.0) == alone[files[0]][0]
    assert blend(_0=0.5, _1=0.5) == blend(_1=0.5, _0=0.5)
    assert httpx.get(f"{engine.address}/v1/models").status_code == 401  # nobody else on this machine may ask
    engine.close()
    assert not engine.alive
