"""What is a step, and that nothing reaches gate or ledger outside of one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor

import crash.bring_back
import crash.stock_work
import crash.trade
import onhand.v1
from crash.process import observed
from crash.stage import Stage
from crash.stock import SCENARIOS
from onhand.app import App
from onhand.crash import STEPS, armed, step, under_way
from onhand.edge.admission import is_mutation
from onhand.settings import Unusable

assert App
assert crash.bring_back
assert crash.trade
assert crash.stock_work  # their steps and scenarios are registered


def services() -> Iterator[ServiceDescriptor]:
    """Every service that the protos declare."""
    for module in pkgutil.iter_modules(onhand.v1.__path__):
        if module.name.endswith("_pb2"):
            yield from importlib.import_module(f"onhand.v1.{module.name}").DESCRIPTOR.services_by_name.values()


async def test_every_mutating_rpc_and_every_loop_is_a_workflow_of_the_matrix(stage: Stage) -> None:
    mutating = {method.name for service in services() for method in service.methods if is_mutation(method)}
    assert mutating >= {"BatchReserve", "ReserveStream"}  # what they carry has the request_id
    assert len(mutating) >= 33
    looped = {name for name, _, _ in (await stage.process()).app.loops()}
    assert {scenario.workflow for scenario in SCENARIOS} == mutating | looped | {"rebuild"}


def test_the_scenarios_of_each_file_are_run() -> None:
    """Each has a test of its own, so that several processes share them."""
    declared = {scenario.prepare.__module__.removeprefix("crash.") for scenario in SCENARIOS}
    assert declared == {
        path.stem.removeprefix("test_matrix_") for path in Path(__file__).parent.glob("test_matrix_*.py")
    }


def test_a_scenario_is_named_once() -> None:
    names = [str(scenario) for scenario in SCENARIOS]
    assert len(names) == len(set(names))


def test_a_step_is_the_function_that_was_written() -> None:
    assert len(STEPS) >= 30
    for each in STEPS.values():
        owner, attribute = each.owner()
        written = vars(owner)[attribute]
        assert (written.__qualname__, written.__module__) == (each.qualname, each.module)
        with observed():
            assert vars(owner)[attribute].__wrapped__ is written
        assert vars(owner)[attribute] is written


def test_two_functions_can_not_be_one_step() -> None:
    async def other() -> None: ...

    with pytest.raises(AssertionError):
        step("gate.take")(other)


@pytest.mark.parametrize(
    "text", ["gate.take", "gate.take:during", "gate.nothing:after", "gate.take:after:0", "gate.take:after:x"]
)
def test_a_point_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(Unusable) as refused, armed({"ONHAND_CRASH_AT": text}):
        pass
    assert "gate.take" in str(refused.value)
    assert under_way() == ()


def test_nothing_is_armed_where_nothing_is_said() -> None:
    take, attribute = STEPS["gate.take"].owner()
    before = vars(take)[attribute]
    with armed({}):
        assert vars(take)[attribute] is before
    with armed({"ONHAND_CRASH_AT": "gate.take:after:2"}):
        assert vars(take)[attribute] is not before
    assert vars(take)[attribute] is before
