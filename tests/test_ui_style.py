from __future__ import annotations

import re

from peft_nb.ui import style


def test_styles_fit_into_an_attribute_and_their_colours_have_fallbacks() -> None:
    styles = {name: value for name, value in vars(style).items() if name.isupper()}
    assert styles.keys() >= {"BOX", "MUTED", "NUMBERS"}
    for value in styles.values():
        assert '"' not in value
        assert all("," in used for used in re.findall(r"var\(([^)]*)\)", value))
