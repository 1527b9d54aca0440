"""An import-linter contract by allow-list: a new dependency is refused until somebody allows it."""

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyImports(Contract):
    """`sources` and what is below them import only themselves, the standard library and what is below `allowed`.

    A source that does not exist yet is passed over, so that a rule can stand before its first module.
    """

    type_name = "only_imports"

    sources = fields.ListField(subfield=fields.StringField())
    allowed = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        sources: list[str] = list(self.sources)  # type: ignore[call-overload]
        broken = []
        for source in sources:
            permitted = [source, *self.allowed]  # type: ignore[misc]
            for importer in sorted(graph.modules):
                if not _is_within(importer, source):
                    continue
                for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                    if imported.split(".")[0] in sys.stdlib_module_names:
                        continue
                    if not any(_is_within(imported, each) for each in permitted):
                        broken.append(f"{importer} imports {imported}")
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["broken"]:
            output.print_error(line)


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")
