"""The Sphinx directive `package-messages`: the errors and warnings of each subpackage, each with an anchor."""

from __future__ import annotations

import re
from typing import Any

import package_messages
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TITLES = {
    package_messages.SHARED: "All steps",
    "baselines": "Baselines",
    "datasets": "Data sets",
    "embed": "Embedding",
    "enrich": "Enriching",
    "events": "Events in tables",
    "formats": "Text formats",
    "lm": "Language models: loading, training, running",
    "models": "Models that pip installs",
    "plotting": "Plotting",
    "rewriters": "Rewriters",
    "serialize": "Serialising",
}


class PackageMessages(SphinxDirective):
    """List all messages of the package."""

    def run(self) -> list[nodes.Node]:
        """Return one section per subpackage."""
        for file in package_messages.PACKAGE.rglob("*.py"):
            self.env.note_dependency(str(file))
        return [self._section(name, found) for name, found in package_messages.find_messages().items()]

    def _section(self, name: str, messages: list[package_messages.Message]) -> nodes.section:
        section = nodes.section(ids=[f"messages-{name}"])
        section += nodes.title(text=TITLES.get(name, name))
        items = nodes.bullet_list()
        for message in messages:
            items += nodes.list_item("", self._entry(message), ids=[self._anchor(message)])
        section += items
        return section

    def _entry(self, message: package_messages.Message) -> nodes.line_block:
        first, *others = message.text.split("\n")
        block = nodes.line_block()
        block += nodes.line("", "", nodes.strong(text=message.kind), nodes.Text(f": {first}"))
        block += [nodes.line("", line) for line in others]
        return block

    def _anchor(self, message: package_messages.Message) -> str:
        """Return an id made of the message's first words."""
        words = re.findall(r"[a-z0-9]+", message.text.lower())[:8]
        anchor = "-".join(["message", *words])
        while anchor in self.state.document.ids:
            anchor += "-other"
        self.state.document.ids[anchor] = None
        return anchor


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("package-messages", PackageMessages)
    return {"parallel_read_safe": True}
