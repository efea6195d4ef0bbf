"""A messy table is looked at and fixed, and texts are classified, in a real JupyterLab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, run_next, shot, violations

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

MESSY = """%load_ext peft_nb
import pandas as pd
verbs = ['find', 'print', 'cancel', 'change', 'archive', 'export', 'share', 'recover']
things = ['invoice', 'password', 'parcel', 'refund', 'voucher', 'address', 'battery', 'charger']
rows = [(f'How do I {verb} my {thing}?', f'Open {thing}s, then choose <b>{verb} {thing}</b>.')
        for verb in verbs for thing in things]
rows[3] = (rows[3][0], 'Write to anna.berg@tidewater.shop and we will do it.')
rows[5] = (rows[5][0], '')
rows[9] = rows[2]
rows[12] = (rows[12][0], 'The key is sk-proj-9fKqT2vLx7RbZ3mWc8Yd4HsJ6nPg5Qa1Ue0Bt')
rows[20] = (rows[20][0], 'At the cafÃ© â€“ ask there.')
rows[21] = ('<script>document.title = "broken in"</script><img src=x onerror="document.title = 1"> ' + rows[21][0],
            'مرحبا 👩‍🔧 ' + 'w' * 300)
rows[30] = (rows[30][0], 'It goes on. ' * 60)
tickets = pd.DataFrame(rows, columns=['question', 'answer'])"""
CELLS = [
    MESSY,
    "%peft data tickets --model {base} --max-length 256",
    "%peft data tickets --model {base} --max-length 256 --fix --out clean",
    "%peft data clean --model {base} --row 20",
    "import json, pathlib\n"
    "texts = json.loads(pathlib.Path('{texts}').read_text())\n"
    "run = __import__('peft_nb').train(data=texts, task='classification', model='{encoder}', max_steps=60,"
    " batch_size=20, learning_rate=0.005, eval_fraction=0.3)",
    "run.predict(['a red owl', 'we drill in the yard'])",
]


@pytest.fixture(scope="module")
def page(
    opened: Open, base: Path, encoder: Path, labelled: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Page:
    texts = tmp_path_factory.mktemp("texts") / "texts.json"
    texts.write_text(json.dumps(labelled))
    said = {"{base}": base, "{encoder}": encoder, "{texts}": texts}
    cells = []
    for cell in CELLS:
        for name, path in said.items():
            cell = cell.replace(name, str(path))
        cells.append(cell)
    return opened(cells)


def test_a_messy_table_is_explained_and_fixed(page: Page) -> None:
    run_next(page, 0)
    report = run_next(page, 1)
    expect(report).to_contain_text("1 error, ", timeout=SECONDS)
    for found in (
        "1 row empty",
        "1 row with secrets",
        "1 duplicate row",
        "1 row with broken encoding",
        "personal data",
    ):
        expect(report).to_contain_text(found)
    assert "anna" not in report.inner_text()
    assert "9fKqT2vLx7" not in report.inner_text()
    expect(report.locator("img[alt], svg[role=img]").first).to_be_visible()
    assert violations(page, ".peft-nb") == []
    shot(page, report, "data-panel", (1600, 1200, 480))

    report.get_by_role("button", name="Fix 1 duplicate row").focus()
    page.keyboard.press("Space")
    expect(report.get_by_role("status").first).to_contain_text("63 of 64 rows are left in clean", timeout=SECONDS)
    report.get_by_label("Variable for the fixed data").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(report.get_by_role("status").first).to_contain_text("62 of 64 rows are left in clean", timeout=SECONDS)
    expect(report).to_contain_text("%%peft lora --data clean")
    report.get_by_role("button", name="Fix 1 row with secrets").focus()
    page.keyboard.press("Space")
    expect(report.get_by_role("status").first).to_contain_text("4 changes, 62 of 64 rows", timeout=SECONDS)
    report.get_by_text("before and after, by row of the original").first.click()
    expect(report).to_contain_text("The key is <OPENAI_KEY>")
    assert "9fKqT2vLx7" not in report.inner_text()
    report.get_by_label("Row, 0 to 61").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("21\n")
    expect(report).to_contain_text("row 21: ", timeout=SECONDS)
    assert violations(page, ".peft-nb") == []
    shot(page, report, "data-panel-fixed", (1200, 480))

    page.locator(".jp-Cell").nth(2).locator(".jp-InputPrompt").click()
    fixed = run_next(page, 2)
    expect(fixed).to_contain_text("62 of 64 rows are left in clean", timeout=SECONDS)
    tokens = run_next(page, 3)
    expect(tokens).to_contain_text("in the loss", timeout=SECONDS)
    shot(page, tokens, "tokens")
    assert page.title().startswith("desk")


def test_texts_are_classified(page: Page) -> None:
    training = run_next(page, 4)
    expect(training).to_contain_text("macro-F1", timeout=SECONDS)
    # Once it has finished: the confusion matrix in the panel, and on its page, which has the curves too.
    expect(training.locator("img")).to_have_count(3, timeout=SECONDS)
    shot(page, training, "classified")
    found = run_next(page, 5)
    expect(found).to_contain_text("bird", timeout=SECONDS)
    shot(page, found, "predicted")
