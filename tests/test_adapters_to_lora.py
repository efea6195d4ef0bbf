from __future__ import annotations

import pytest

from peft_nb.adapters.to_lora import convertible, rank_of
from peft_nb.errors import RunError
from peft_nb.methods import REGISTRY


def test_which_methods_peft_can_convert() -> None:
    able = {name for name, one in REGISTRY.items() if name != "lora" and convertible(one)}
    assert {"loha", "lokr", "vera", "miss", "fourierft", "c3a", "randlora"} <= able
    assert not able & {"oft", "boft", "ia3", "prompt", "prefix", "ln-tuning", "bitfit", "full", "adalora"}


@pytest.mark.parametrize(("given", "rank"), [("16", 16), (16, 16), (8.0, 8), ("0.99", 0.99), (0.5, 0.5), ("1", 1)])
def test_ranks_and_shares(given: str | float, rank: float) -> None:
    found = rank_of(given)
    assert (found, type(found)) == (rank, type(rank))


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "many", "", "nan", "inf"])
def test_what_is_neither_is_refused(given: str) -> None:
    with pytest.raises(RunError, match="is neither a whole number nor a share below 1; write one such as 16 or 0.99"):
        rank_of(given)
