"""What ``lint-imports`` checks here besides the contracts that it brings along; pyproject.toml names it."""

from __future__ import annotations

import grimp
from importlinter import Contract, ContractCheck
from importlinter.application import output


class NoCircles(Contract):
    """No two files import each other, also not by way of others, and not inside functions either.

    Import Linter's ``acyclic_siblings`` takes each package for one, and does not see a file that imports from the
    ``__init__`` of its own package. Imports for the type checker alone do not count: they are never executed.
    """

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        executed = grimp.build_graph(
            *self.session_options["root_packages"], exclude_type_checking_imports=True, cache_dir=None
        )
        found = [_imports(executed, circle) for circle in circles(executed)]
        return ContractCheck(kept=not found, metadata={"circles": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for imports in check.metadata["circles"]:
            output.print_error(f"{len({importer for importer, *_ in imports})} files import each other:")
            for importer, imported, line in imports:
                output.print_error(f"- {importer} -> {imported} (l. {line})")
            output.new_line()


def circles(graph: grimp.ImportGraph) -> list[set[str]]:
    """Find the largest sets of modules each of which reaches all the others through imports."""
    reached = {module: graph.find_upstream_modules(module) for module in graph.modules}
    found = {frozenset({one, *(other for other in far if one in reached[other])}) for one, far in reached.items()}
    return [set(circle) for circle in sorted(found, key=min) if len(circle) > 1]


def _imports(graph: grimp.ImportGraph, circle: set[str]) -> list[tuple[str, str, int]]:
    return [
        (importer, imported, graph.get_import_details(importer=importer, imported=imported)[0]["line_number"])
        for importer in sorted(circle)
        for imported in sorted(graph.find_modules_directly_imported_by(importer) & circle)
    ]
