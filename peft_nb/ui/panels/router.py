"""The panel of a router: a box to try prompts in, where they went, and a confusion matrix on evaluation rows."""

from __future__ import annotations

import ipywidgets

from peft_nb.ui import router as page
from peft_nb.ui.panels.panel import FIELD, LABEL, Panel, Tell, button, progress, row
from peft_nb.ui.router import Router


class RouterPanel(Panel):
    """Try a router.

    Parameters
    ----------
    router : Router
        What :func:`peft_nb.route` gives.

    Attributes
    ----------
    prompt : ipywidgets.Text
        What is routed; Enter routes it.
    state : ipywidgets.HTML
        Where prompts went, and what was measured.
    """

    command = "%peft route"

    def __init__(self, router: Router) -> None:
        self.router = router
        self.prompt = ipywidgets.Text(
            placeholder="a prompt", description="Prompt", style=LABEL, layout=FIELD, continuous_update=False
        )
        self.prompt.observe(lambda change: self.route(), "value")
        self.state = ipywidgets.HTML(page.page(router))
        buttons = row(
            button("Route", self.route, help="Say which adapter this prompt is for"),
            button("Confusion matrix", self.confusion, help="Route the evaluation rows of all runs"),
            button("Evaluate", self.evaluate, help="Measure the eval loss alone, routed and by an oracle"),
        )
        super().__init__(router.name, [self.prompt, buttons, self.state])

    def route(self) -> None:
        """Route the prompt in the box."""
        if text := self.prompt.value.strip():
            self.in_background("routing", lambda tell: self._route(text, tell), self._show)

    def confusion(self) -> None:
        """Count where the evaluation rows of all runs go."""
        self.in_background("routing the evaluation rows", self._confusion, self._show)

    def evaluate(self) -> None:
        """Measure what routing costs."""
        self.in_background("measuring eval losses", self._evaluate, self._show)

    def _route(self, text: str, tell: Tell) -> str:
        if self.router.board.embedder.waits:
            tell(f"loading {self.router.board.embedder.model}")
        found = self.router.route(text)
        return f"{found.name}, {found.confidence:.0%}: {found.why}"

    def _confusion(self, tell: Tell) -> str:
        found = self.router.confusion(progress=progress(tell))
        return f"{int(found.to_numpy().sum()):,} evaluation rows routed"

    def _evaluate(self, tell: Tell) -> str:
        return f"{len(self.router.evaluate(progress=progress(tell)))} runs measured"

    def _show(self) -> None:
        self.state.value = page.page(self.router)
        self.keep()
