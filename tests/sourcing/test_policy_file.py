"""Policies as files: what is read, and what is said of files that cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import Costs, Objective, Policy, Rule, Split
from onhand.settings import Unusable
from onhand.sourcing.policy_file import COSTS, RULE, TOP, PolicyFileError, load_policy, parse_policy

WHOLE = """
name = "ours"
parcels_max = 3
[costs.STORE]
parcel_minor = 690
unit_minor = 1
kilogram_minor = 40
kilometre_minor = 2
[[rules]]
name = "near"
methods = ["PICKUP", "SHIP"]
kinds = ["STORE"]
groups = ["metro-a", "metro-b"]
not_groups = ["closing"]
brands = ["house"]
not_brands = ["acme"]
distance_metres_max = 50_000
orders_left_min = 2
units_left_min = 10
opens_within_minutes = 60
before_cut_off = true
ready_within_minutes = 240
safety_stock = 1
objectives = ["soonest_ready", "fewest_parcels", "nearest", "cheapest", "fullest_shelf"]
split = "units"
parcels_max = 2
partial = true
[[rules]]
name = "any"
"""


def test_every_key_is_read() -> None:
    assert parse_policy(WHOLE, "f") == Policy(
        name="ours",
        parcels_max=3,
        costs={"STORE": Costs(parcel_minor=690, unit_minor=1, kilogram_minor=40, kilometre_minor=2)},
        rules=(
            Rule(
                name="near",
                methods=frozenset({FulfillmentKind.PICKUP, FulfillmentKind.SHIP}),
                kinds=frozenset({"STORE"}),
                groups=frozenset({"metro-a", "metro-b"}),
                not_groups=frozenset({"closing"}),
                brands=frozenset({"house"}),
                not_brands=frozenset({"acme"}),
                distance_metres_max=50_000,
                orders_left_min=2,
                units_left_min=10,
                opens_within_minutes=60,
                is_before_cut_off=True,
                ready_within_minutes=240,
                safety_stock=1,
                objectives=(
                    Objective.SOONEST_READY,
                    Objective.FEWEST_PARCELS,
                    Objective.NEAREST,
                    Objective.CHEAPEST,
                    Objective.FULLEST_SHELF,
                ),
                split=Split.UNITS,
                parcels_max=2,
                is_partial=True,
            ),
            Rule(name="any"),
        ),
    )


def test_onhands_own_policy_is_one() -> None:
    policy = load_policy()
    assert policy.name == "standard"
    for method in (FulfillmentKind.PICKUP, FulfillmentKind.SHIP):
        rules = [rule for rule in policy.rules if method in rule.methods]
        assert rules[-1].is_partial, "what can be brought is brought"


ONE = 'name = "p"\n[[rules]]\nname = "r"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "f: is no TOML: "),
        ('name = "p"', "f: rules = None is not allowed: 1 to 50 tables [[rules]]"),
        ('name = "p"\nrules = []', "f: rules = [] is not allowed"),
        ('[[rules]]\nname = "r"', "f: name = None is not allowed: a text of 1 to 100 characters"),
        ('name = "p"\n[[rules]]\nsplit = "none"', "f: [[rules]] 1: name = None is not allowed"),
        (
            ONE + '[[rules]]\nname = "r"',
            "f: [[rules]] 2: name = 'r' is not allowed: a name that no other rule has",
        ),
        (
            'nam = "p"\n' + ONE,
            "f: nam = 'p' is not allowed: did you mean name? there is no such key; there are name, ",
        ),
        (
            ONE + "distance_meters_max = 5",
            'f: [[rules]] 1 "r": distance_meters_max = 5 is not allowed: did you mean distance_metres_max? ',
        ),
        (
            ONE + 'objectives = ["closest"]',
            "f: [[rules]] 1 \"r\": objectives = ['closest'] is not allowed: a list of one or more of fewest_parcels, nearest, "
            "cheapest, fullest_shelf, soonest_ready",
        ),
        (ONE + 'objectives = ["nearest", "nearest"]', "['nearest', 'nearest'] is not allowed: each of them once"),
        (ONE + "objectives = []", "objectives = [] is not allowed"),
        (ONE + 'split = "boxes"', "split = 'boxes' is not allowed: one of none, lines, units"),
        (
            ONE + 'methods = ["CARRY_OUT"]',
            "methods = ['CARRY_OUT'] is not allowed: a list of one or more of PICKUP, SHIP",
        ),
        (
            ONE + 'kinds = "STORE"',
            "kinds = 'STORE' is not allowed: a list of one or more of STORE, WAREHOUSE, VIRTUAL",
        ),
        (ONE + "groups = [1]", "groups = [1] is not allowed: a list of one text or more"),
        (ONE + "partial = 1", "partial = 1 is not allowed: true or false"),
        (ONE + "safety_stock = -1", "safety_stock = -1 is not allowed: a whole number from 0 to 1000000000"),
        (ONE + "safety_stock = true", "safety_stock = True is not allowed"),
        (ONE + "parcels_max = 2.0", "parcels_max = 2.0 is not allowed: a whole number from 1 to 20"),
        (ONE + "parcels_max = 21", "parcels_max = 21 is not allowed"),
        (
            ONE + 'split = "none"\nparcels_max = 2',
            'parcels_max = 2 is not allowed: 1, or left out, where split is "none"',
        ),
        (ONE + 'groups = ["a"]\nnot_groups = ["a"]', "not_groups = ['a'] is not allowed: what groups does not name"),
        ("parcels_max = 0\n" + ONE, "f: parcels_max = 0 is not allowed: a whole number from 1 to 20"),
        ("costs = 5\n" + ONE, "f: costs = 5 is not allowed: tables [costs.KIND], of STORE, WAREHOUSE, VIRTUAL"),
        (ONE + "[costs.SHOP]\nparcel_minor = 5", "f: costs = 'SHOP' is not allowed: one of STORE, WAREHOUSE, VIRTUAL"),
        (
            ONE + "[costs.STORE]\nparcel = 5",
            "f: [costs.STORE]: parcel = 5 is not allowed: did you mean parcel_minor? ",
        ),
        (
            ONE + '[costs.STORE]\nparcel_minor = "5"',
            "f: [costs.STORE]: parcel_minor = '5' is not allowed: a whole number",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_told_where_what_and_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(PolicyFileError) as caught:
        parse_policy(text, "f")
    assert said in str(caught.value)
    assert isinstance(caught.value, Unusable)  # one line, exit 1


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"nowhere.toml: cannot be read: No such file"):
        load_policy(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe4"')
    with pytest.raises(PolicyFileError, match=r"latin.toml: is no UTF-8 text"):
        load_policy(tmp_path / "latin.toml")
    (tmp_path / "good.toml").write_text(WHOLE)
    assert load_policy(tmp_path / "good.toml").name == "ours"


def test_the_policy_in_the_documentation_is_one_and_shows_every_key() -> None:
    document = (Path(__file__).parents[2] / "docs" / "sourcing.md").read_text()
    text = document.partition("```toml\n")[2].partition("```")[0]
    assert parse_policy(text, "docs").name == "ours"
    for key in (*RULE, *COSTS, *TOP):
        assert re.search(rf"\b{key}\b", text), key
    for objective in Objective:
        assert f"| `{objective.value}` |" in document
