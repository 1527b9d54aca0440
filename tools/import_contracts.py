"""import-linter contracts by allow-list: a new dependency is refused until somebody allows it.

A module in parentheses may be absent, so that a rule can stand before it; any other must exist, lest a misspelt one rules
nothing.
"""

import sys
from collections.abc import Iterator
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class _AllowList(Contract):
    @staticmethod
    def _modules(graph: ImportGraph, named: list[str]) -> tuple[list[str], list[str]]:
        """The names without their parentheses, and what is wrong with them."""
        absent = [f"{name} does not exist" for name in named if name[0] != "(" and name not in graph.modules]
        return [name.strip("()") for name in named], absent

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["broken"]:
            output.print_error(line)


class OnlyImports(_AllowList):
    """`sources` and what is below them import only themselves, the standard library and what is below `allowed`."""

    type_name = "only_imports"

    sources: Any = fields.ListField(subfield=fields.StringField())
    allowed: Any = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        sources, broken = self._modules(graph, self.sources)
        for importer, imported in _direct_imports(graph):
            source = next((each for each in sources if _is_within(importer, each)), None)
            if source is None or imported.split(".")[0] in sys.stdlib_module_names:
                continue
            if not any(_is_within(imported, each) for each in (source, *self.allowed)):
                broken.append(f"{importer} imports {imported}")
        return ContractCheck(kept=not broken, metadata={"broken": broken})


class OnlyImportedBy(_AllowList):
    """`modules` and what is below them are imported by themselves and by what is below `importers` only."""

    type_name = "only_imported_by"

    modules: Any = fields.ListField(subfield=fields.StringField())
    importers: Any = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        modules, absent = self._modules(graph, self.modules)
        importers, more_absent = self._modules(graph, self.importers)
        broken = [*absent, *more_absent]
        for importer, imported in _direct_imports(graph):
            module = next((each for each in modules if _is_within(imported, each)), None)
            if module is not None and not any(_is_within(importer, each) for each in (module, *importers)):
                broken.append(f"{importer} imports {imported}")
        return ContractCheck(kept=not broken, metadata={"broken": broken})


def _direct_imports(graph: ImportGraph) -> Iterator[tuple[str, str]]:
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            yield importer, imported


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")
