from __future__ import annotations

import os
import signal
import time

from peft_nb.runs.run import Run
from peft_nb.serving.server import Server
from peft_nb.store import Store
from peft_nb.system.display import panel_of
from peft_nb.ui.panels.serve import ServePanel
from peft_nb.ui.serve import Serving
from tests.serving import post, serve


def until_shown(panel: ServePanel, said: str) -> None:
    end = time.monotonic() + 10
    while said not in panel.state.value:
        assert time.monotonic() < end, panel.state.value
        time.sleep(0.05)


def test_the_panel_shows_traffic_and_notices_that_the_server_was_killed(desk: dict[str, Run]) -> None:
    store = Store(desk["manners@v2"].folder.parents[1])
    server = serve(store, "manners@v1")
    panel = panel_of(Serving(server))
    assert isinstance(panel, ServePanel)
    assert not panel.stop.disabled
    assert [snippet.name for snippet in panel.snippets] == ["curl", "openai"]
    assert server.address in panel.snippets[0].code
    post(server, "manners@v1")
    until_shown(panel, ">manners@v1</th>")
    until_shown(panel, ">1</td>")
    os.kill(int(server.owner.partition("-")[0]), signal.SIGKILL)
    until_shown(panel, 'role="alert"><b>' + server.address + ": ended: its process was killed by signal 9")
    assert ">1</td>" in panel.state.value  # what it had answered
    assert panel.stop.disabled
    assert panel.snippets[0].layout.display == "none"


def test_stop_ends_the_server(desk: dict[str, Run]) -> None:
    server = serve(Store(desk["manners@v2"].folder.parents[1]), "manners@v1")
    panel = ServePanel(Serving(server))
    panel.stop.click()
    until_shown(panel, f"<b>{server.address}: stopped</b>")
    assert not server.alive


def test_the_page_that_stays_holds_the_table(served: Server) -> None:
    serving = Serving(served)
    html = serving._repr_html_()
    for name in served.names:
        assert name in html
    assert "<summary>curl</summary>" in html
    assert "<script" not in html
