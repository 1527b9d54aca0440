"""All that is searched, of all models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from model import scenarios
from model.group import GroupModel, GroupRules
from model.payment import PaymentModel, PaymentRules
from model.protocol import Model
from model.search import Searchable
from model.world import Rules


@dataclass(frozen=True)
class Run:
    """A search, and what it must come to: a mutant is caught, everything else holds."""

    name: str
    model: Callable[[], Searchable]
    is_mutant: bool = False
    size: str = "test"  # test | full | deep


def _protocol() -> Iterator[Run]:
    def run(name: str, case: scenarios.Case, **named: object) -> Run:
        rules, scenario = case
        return Run(name, lambda: Model(Rules(**rules), **scenario), **named)  # type: ignore[arg-type]

    for size, table in (("test", scenarios.SCENARIOS), ("full", scenarios.FULL), ("deep", scenarios.DEEP)):
        for name, scenario in table.items():
            yield run(f"spec: {name}", ({}, scenario), size=size)
    for name, case in scenarios.VARIANTS.items():
        yield run(f"variant: {name}", case)
    for name, case in scenarios.MUTANTS.items():
        yield run(f"mutant: {name}", case, is_mutant=True)


def _group(rules: scenarios.Rule, scenario: scenarios.Rule) -> GroupModel:
    return GroupModel(**scenario, rules=GroupRules(**rules))


def _payment(rules: scenarios.Rule, scenario: scenarios.Rule) -> PaymentModel:
    return PaymentModel(**scenario, rules=PaymentRules(**rules))


def _others() -> Iterator[Run]:
    for make, specs, mutants in (
        (_group, scenarios.GROUPS, scenarios.GROUP_MUTANTS),
        (_payment, scenarios.PAYMENTS, scenarios.PAYMENT_MUTANTS),
    ):
        for name, scenario in specs.items():
            yield Run(f"spec: {name}", partial(make, {}, scenario))
        for name, (rules, scenario) in mutants.items():
            yield Run(f"mutant: {name}", partial(make, rules, scenario), is_mutant=True)


RUNS: tuple[Run, ...] = (*_protocol(), *_others())
