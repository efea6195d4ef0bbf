"""The panel of an index: a box to search in, what was found, and what the index holds."""

from __future__ import annotations

import ipywidgets

from peft_nb.ui import index as page
from peft_nb.ui.index import Index
from peft_nb.ui.panels.panel import FIELD, LABEL, Panel, Tell, button, row

HITS = 5


class IndexPanel(Panel):
    """Search documents.

    Parameters
    ----------
    index : Index
        What :func:`peft_nb.index` gives.

    Attributes
    ----------
    asked : ipywidgets.Text
        What is looked for; Enter searches.
    hits : ipywidgets.HTML
        What was found.
    """

    command = "%peft index"

    def __init__(self, index: Index) -> None:
        self.index = index
        self.asked = ipywidgets.Text(
            placeholder="a question or some words",
            description="Search",
            style=LABEL,
            layout=FIELD,
            continuous_update=False,
        )
        self.asked.observe(lambda change: self.search(), "value")
        self.hits, self.holds = ipywidgets.HTML(), ipywidgets.HTML(page.page(index))
        self._found = ""
        search = button("Search", self.search, help="Find the chunks that fit by their words and by their meaning")
        super().__init__(f"index {index.name}", [self.asked, row(search), self.hits, self.holds])

    def search(self) -> None:
        """Find what fits the text in the box."""
        if text := self.asked.value.strip():
            self.in_background("searching", lambda tell: self._search(text, tell), self._show)

    def _search(self, text: str, tell: Tell) -> str:
        if self.index.retriever.embedder.waits:
            tell(f"loading {self.index.retriever.facts.model}")
        found = self.index.search(text, HITS)
        self._found = page.hits(found, text)
        return f"{len(found)} of {len(self.index):,} chunks"

    def _show(self) -> None:
        self.hits.value = self._found
