"""Plans: each filter and each objective, rules one after the other, and the reasons."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import (
    Costs,
    Line,
    Objective,
    Place,
    Plan,
    Policy,
    Rule,
    Schedule,
    Split,
    Why,
    rank,
    source,
)

NOW = datetime(2026, 6, 1, 10, tzinfo=UTC)
PICKUP, SHIP = FulfillmentKind.PICKUP, FulfillmentKind.SHIP
HALF_DAY = tuple((day, 540, 720) for day in range(1, 8))
PARCELS, NEAREST, CHEAPEST, FULLEST, SOONEST = Objective


def line(sku: str, quantity: int = 1, **more: Any) -> Line:
    return Line(sku=sku, quantity=quantity, **more)


def place(
    location_id: str, metres: int | None = 1000, kind: str = "STORE", /, *, atp: dict[str, int], **more: Any
) -> Place:
    return Place(location_id=location_id, kind=kind, distance_metres=metres, atp=atp, **more)


def rule(name: str = "rule", **more: Any) -> Rule:
    return Rule(**{"name": name, "is_partial": True} | more)


def planned(lines: list[Line], places: list[Place], *rules: Rule, method: FulfillmentKind = SHIP, **more: Any) -> Plan:
    fields = {key: more.pop(key) for key in ("parcels_max", "costs") if key in more}
    return source(lines, places, Policy(name="test", rules=rules, **fields), **{"method": method, "now": NOW} | more)


def brought(plan: Plan) -> dict[str, dict[str, int]]:
    return {parcel.location_id: dict(parcel.lines) for parcel in plan.parcels}


def whys(plan: Plan, rule: str = "rule") -> dict[str, Why]:
    return {each.location_id: each.why for each in plan.considered if each.rule == rule}


def details(plan: Plan) -> dict[str, str]:
    return {each.location_id: each.detail for each in plan.considered}


# -------------------------------------------------------------------------------------------------------------- filters
@pytest.mark.parametrize(
    ("asked", "left_out", "passes", "why", "detail"),
    [
        ({}, {"methods": frozenset({PICKUP})}, {}, Why.METHOD, "offers no SHIP"),
        ({"kinds": frozenset({"STORE"})}, {"kind": "VIRTUAL"}, {}, Why.KIND, "is a VIRTUAL; the rule is for STORE"),
        (
            {"groups": frozenset({"a", "b"})},
            {"groups": frozenset({"c"})},
            {"groups": frozenset({"b"})},
            Why.GROUP,
            "is in none of a, b",
        ),
        ({"not_groups": frozenset({"c"})}, {"groups": frozenset({"c"})}, {}, Why.GROUP, "is in c"),
        ({"distance_metres_max": 1000}, {"distance_metres": 1001}, {}, Why.DISTANCE, "1001 m away; 1000 m at most"),
        (
            {"distance_metres_max": 1000},
            {"distance_metres": None},
            {},
            Why.DISTANCE_UNKNOWN,
            "no position is known, of it or of the customer",
        ),
        ({}, {"orders_left": 0}, {"orders_left": 1}, Why.CAPACITY, "0 orders left today; 1 needed"),
        (
            {"orders_left_min": 3},
            {"orders_left": 2},
            {"orders_left": 3},
            Why.CAPACITY,
            "2 orders left today; 3 needed",
        ),
        ({}, {"units_left": 0}, {"units_left": 1}, Why.CAPACITY, "0 units left today; 1 needed"),
        ({"units_left_min": 9}, {"units_left": 8}, {"units_left": 9}, Why.CAPACITY, "8 units left today; 9 needed"),
        (
            {"opens_within_minutes": 30},
            {"schedule": Schedule(HALF_DAY, "America/New_York")},  # 06:00 there
            {"schedule": Schedule(HALF_DAY, "UTC")},
            Why.CLOSED,
            "closed, and not open within 30 min",
        ),
        (
            {"is_before_cut_off": True},
            {"schedule": Schedule((), "UTC", 0, 600)},
            {"schedule": Schedule((), "UTC", 0, 601)},
            Why.CUT_OFF,
            "orders after 10:00 there are tomorrow's",
        ),
        (
            {"ready_within_minutes": 60},
            {"schedule": Schedule((), "UTC", 61)},
            {"schedule": Schedule((), "UTC", 60)},
            Why.NOT_READY,
            "ready in 61 min; 60 at most",
        ),
        (
            {"safety_stock": 2},
            {"atp": {"milk": 2}},
            {"atp": {"milk": 3}},
            Why.SAFETY_STOCK,
            "has no more of each sku than the 2 that stay there",
        ),
        ({}, {"atp": {"bread": 5}}, {}, Why.NOTHING_THERE, "has none of 1 lines"),
    ],
)
def test_a_filter_leaves_out_who_does_not_pass_and_says_why(
    asked: dict[str, Any], left_out: dict[str, Any], passes: dict[str, Any], why: Why, detail: str
) -> None:
    good = replace(place("good", 900, atp={"milk": 9}), **passes)
    bad = replace(good, **{"location_id": "bad", "distance_metres": 100} | left_out)

    plan = planned([line("milk")], [bad, good], rule(**asked))

    assert brought(plan) == {"good": {"milk": 1}}
    assert whys(plan) == {"bad": why}
    assert details(plan) == {"bad": detail}


def test_who_is_excluded_is_not_asked_by_any_rule() -> None:
    near, far = place("near", 10, atp={"milk": 9}), place("far", 900, atp={"milk": 9})
    plan = planned([line("milk", 12)], [near, far], rule(split=Split.UNITS), rule("last"), excluded=["near"])
    assert brought(plan) == {"far": {"milk": 9}}
    assert whys(plan)["near"] is Why.EXCLUDED
    assert [(each.sku, each.quantity, each.held_quantity) for each in plan.unsourced] == [("milk", 3, 0)]


def test_a_rule_for_another_method_is_passed_over() -> None:
    plan = planned([line("milk")], [place("a", atp={"milk": 1})], rule(methods=frozenset({PICKUP})))
    assert (plan.parcels, plan.is_complete, plan.rules[0].outcome) == ([], False, "is not for SHIP")


def test_brands_decide_which_lines_a_rule_is_for() -> None:
    places = [
        place("store", 10, atp={"own": 5, "other": 5}),
        place("depot", 99, "WAREHOUSE", atp={"own": 5, "other": 5}),
    ]
    plan = planned(
        [line("own", brand="house"), line("other", brand="acme")],
        places,
        rule("house brand", kinds=frozenset({"WAREHOUSE"}), brands=frozenset({"house"})),
        rule("others", not_brands=frozenset({"house"}), objectives=(NEAREST,)),
    )
    # The parcel that comes from the depot anyway costs no way of its own.
    assert brought(plan) == {"depot": {"own": 1, "other": 1}}
    assert plan.parcels[0].rule == "house brand + others"
    alone = planned([line("own", brand="house")], places, rule(brands=frozenset({"acme"})))
    assert alone.rules[0].outcome == "is for none of the brands that are left"


# ----------------------------------------------------------------------------------------------------------- objectives
BOTH = {"milk": 1, "bread": 1}


def test_fewest_parcels_before_nearest_takes_one_that_is_farther() -> None:
    places = [place("a", 10, atp={"milk": 1}), place("b", 20, atp={"bread": 1}), place("c", 500, atp=BOTH)]
    lines = [line("milk"), line("bread")]
    assert brought(planned(lines, places, rule(objectives=(PARCELS, NEAREST)))) == {"c": BOTH}
    assert brought(planned(lines, places, rule(objectives=(NEAREST, PARCELS)))) == {"a": {"milk": 1}, "b": {"bread": 1}}


def test_cheapest_weighs_parcels_units_weight_and_way() -> None:
    costs = {"STORE": Costs(parcel_minor=300, unit_minor=50), "WAREHOUSE": Costs(parcel_minor=400, kilometre_minor=1)}
    places = [place("near", 1000, atp={"milk": 9}), place("depot", 100_000, "WAREHOUSE", atp={"milk": 9})]
    few = planned([line("milk", 3)], places, rule(objectives=(CHEAPEST,)), costs=costs)
    many = planned([line("milk", 5)], places, rule(objectives=(CHEAPEST,)), costs=costs)
    assert (brought(few), few.rules[0].scores[1].value) == ({"near": {"milk": 3}}, 450_000)
    assert (brought(many), many.rules[0].scores[1].value) == ({"depot": {"milk": 5}}, 500_000)
    heavy = {"STORE": Costs(kilogram_minor=100), "WAREHOUSE": Costs(parcel_minor=150)}
    light = planned([line("milk", 1, grams=1000)], places, rule(objectives=(CHEAPEST,)), costs=heavy)
    assert light.rules[0].scores[1].value == 100_000
    assert list(brought(planned([line("milk", 1, grams=2000)], places, rule(objectives=(CHEAPEST,)), costs=heavy))) == [
        "depot"
    ]


def test_what_a_unit_costs_from_everywhere_alike_is_part_of_what_the_plan_costs() -> None:
    costs = {"STORE": Costs(parcel_minor=300, unit_minor=50, kilogram_minor=100)}
    places = [place("a", 1, atp={"milk": 1}), place("b", 2, atp={"milk": 2})]
    plan = planned([line("milk", 4, grams=500)], places, rule(objectives=(CHEAPEST,), split=Split.UNITS), costs=costs)
    assert [(score.objective, score.value, score.bound) for score in plan.rules[0].scores] == [
        ("unsourced", 1, 1),
        ("cheapest", 2 * 300_000 + 3 * 50_000 + 3 * 50_000, 900_000),
    ]


def test_what_a_unit_costs_decides_which_is_brought_where_not_all_can_be() -> None:
    costs = {"STORE": Costs(parcel_minor=300, kilogram_minor=100)}
    places = [place("a", 1, atp={"heavy": 1}), place("b", 2, atp={"light": 1})]
    lines = [line("heavy", grams=5000), line("light", grams=50)]
    plan = planned(lines, places, rule(objectives=(CHEAPEST,), parcels_max=1), costs=costs)
    assert (brought(plan), plan.rules[0].scores[1].value) == ({"b": {"light": 1}}, 305_000)


def test_fullest_shelf_takes_where_most_is_left() -> None:
    places = [place("near", 10, atp={"milk": 2}), place("full", 900, atp={"milk": 20})]
    plan = planned([line("milk")], places, rule(objectives=(FULLEST,)))
    assert brought(plan) == {"full": {"milk": 1}}
    assert [(score.objective, score.value) for score in plan.rules[0].scores] == [
        ("unsourced", 0),
        ("fullest_shelf", 0),
    ]


def test_soonest_ready_is_when_the_last_parcel_is() -> None:
    def ready(minutes: int) -> Schedule:
        return Schedule((), "UTC", minutes)

    places = [
        place("slow", 10, atp=BOTH, schedule=ready(300)),
        place("milk", 20, atp={"milk": 1}, schedule=ready(60)),
        place("bread", 30, atp={"bread": 1}, schedule=ready(90)),
    ]
    lines = [line("milk"), line("bread")]
    soon = planned(lines, places, rule(objectives=(SOONEST, PARCELS)))
    assert brought(soon) == {"milk": {"milk": 1}, "bread": {"bread": 1}}
    assert soon.ready_time == NOW + timedelta(minutes=90)
    assert details(soon)["slow"] == "soonest_ready: ready in 300 min; the plan in 90"
    assert [score.value for score in soon.rules[0].scores] == [0, 90, 2]
    few = planned(lines, places, rule(objectives=(PARCELS, SOONEST)))
    assert (brought(few), few.ready_time) == ({"slow": BOTH}, NOW + timedelta(minutes=300))


def test_as_few_units_as_possible_remain_whatever_the_objectives_say() -> None:
    places = [place("near", 10, atp={"milk": 2}), place("far", 9000, atp={"milk": 5})]
    plan = planned([line("milk", 6)], places, rule(split=Split.UNITS, objectives=(NEAREST,)))
    assert brought(plan) == {"near": {"milk": 2}, "far": {"milk": 4}}


# --------------------------------------------------------------------------------------------------------- splits, rules
def test_a_line_is_divided_only_where_the_rule_says_so() -> None:
    places = [place("a", 10, atp={"milk": 2}), place("b", 20, atp={"milk": 2})]
    whole = planned([line("milk", 3)], places, rule(split=Split.LINES))
    assert (brought(whole), whole.unsourced[0].held_quantity) == ({}, 4)
    assert brought(planned([line("milk", 3)], places, rule(split=Split.UNITS))) == {"a": {"milk": 2}, "b": {"milk": 1}}


def test_without_splits_one_location_brings_all_that_is_brought() -> None:
    places = [
        place("a", 10, atp={"milk": 1}),
        place("b", 20, atp={"bread": 1, "eggs": 1}),
        place("c", 30, atp={"milk": 1}),
    ]
    plan = planned([line("milk"), line("bread"), line("eggs")], places, rule(split=Split.NONE))
    assert brought(plan) == {"b": {"bread": 1, "eggs": 1}}
    assert [each.sku for each in plan.unsourced] == ["milk"]


@pytest.mark.parametrize("limit", ["rule", "policy"])
def test_parcels_are_limited(limit: str) -> None:
    places = [place(sku, n, atp={sku: 1}) for n, sku in enumerate(("milk", "bread", "eggs"), 1)]
    lines = [line("milk"), line("bread"), line("eggs")]
    limits = {"parcels_max": 2}
    plan = (
        planned(lines, places, rule(**limits))
        if limit == "rule"
        else planned(lines, places, rule(), rule("more"), **limits)
    )
    assert brought(plan) == {"milk": {"milk": 1}, "bread": {"bread": 1}}
    assert [(each.sku, each.held_quantity) for each in plan.unsourced] == [("eggs", 1)]
    assert plan.is_proven_optimal


def test_a_rule_that_is_to_bring_all_or_nothing_leaves_all_to_the_next() -> None:
    places = [place("depot", 10, "WAREHOUSE", atp={"milk": 1}), place("store", 20, atp=BOTH)]
    plan = planned(
        [line("milk"), line("bread")],
        places,
        rule("depot", kinds=frozenset({"WAREHOUSE"}), is_partial=False),
        rule("any"),
    )
    assert brought(plan) == {"store": BOTH}
    assert [(result.rule, result.is_used) for result in plan.rules] == [("depot", False), ("any", True)]
    assert (
        plan.rules[0].outcome
        == "brings 1 of 2 units from 1 of 1 locations; not taken, for it is to bring all or nothing"
    )
    assert whys(plan, "depot") == {"store": Why.KIND, "depot": Why.RULE_FAILED}


def test_what_a_rule_leaves_the_next_one_brings_in_the_same_parcel_if_it_can() -> None:
    places = [place("depot", 900, "WAREHOUSE", atp={"milk": 1, "bread": 3}), place("store", 20, atp={"bread": 1})]
    plan = planned(
        [line("milk"), line("bread", 2)],
        places,
        rule("depot", kinds=frozenset({"WAREHOUSE"}), safety_stock=1),
        rule("rest", split=Split.UNITS),
    )
    assert brought(plan) == {"depot": {"milk": 1, "bread": 2}}
    assert plan.rules[1].is_used


def test_later_rules_are_not_needed_once_all_is_brought() -> None:
    plan = planned([line("milk")], [place("a", atp={"milk": 1})], rule("first"), rule("second"))
    assert plan.rules[1].outcome == "not needed: nothing is left to bring"


# -------------------------------------------------------------------------------------------------------------- reasons
def test_who_is_not_chosen_is_told_by_what_it_loses() -> None:
    places = [
        place("chosen", 100, atp=BOTH),
        place("twin", 100, atp=BOTH),
        place("farther", 250, atp=BOTH),
        place("half", 10, atp={"milk": 1}),
    ]
    plan = planned([line("milk"), line("bread")], places, rule())
    assert brought(plan) == {"chosen": BOTH}
    assert whys(plan) == {"twin": Why.NO_BETTER, "farther": Why.LOSES, "half": Why.LOSES}
    assert details(plan)["farther"] == "nearest: 250 with it at the least; the plan 100; has 2 of 2 lines"
    assert details(plan)["half"].startswith("fewest_parcels: 2 with it at the least; the plan 1; has 1 of 2 lines")


def test_the_same_question_has_the_same_answer_in_whatever_order_places_come() -> None:
    places = [place(f"p{n}", 100, atp=BOTH) for n in range(5)]
    lines = [line("milk"), line("bread")]
    assert planned(lines, places, rule()) == planned(lines, places[::-1], rule())
    assert list(brought(planned(lines, places, rule()))) == ["p0"]


def test_a_plan_that_is_not_proven_says_how_far_off_it_may_be() -> None:
    rng = random.Random(1)
    lines = [line(f"s{n}") for n in range(30)]
    places = [
        place(f"p{n}", rng.randint(1, 9999), atp={each.sku: 1 for each in lines if rng.random() < 0.3})
        for n in range(120)
    ]
    plan = planned(lines, places, rule())
    assert plan.is_complete
    assert not plan.is_proven_optimal
    assert 0 < plan.gap < 1
    assert all(score.bound <= score.value for score in plan.rules[0].scores)
    assert Why.NOT_PROVEN in whys(plan).values()


def test_a_sku_is_wanted_once() -> None:
    with pytest.raises(ValueError, match="once"):
        planned([line("milk"), line("milk")], [], rule())


# ----------------------------------------------------------------------------------------------------------- properties
SKUS = ("milk", "bread", "eggs")
PLACES = st.builds(
    lambda n, kind, metres, atp, orders, units: place(
        f"p{n}", metres, kind, atp=atp, orders_left=orders, units_left=units
    ),
    st.integers(0, 10**6),
    st.sampled_from(["STORE", "WAREHOUSE"]),
    st.none() | st.integers(0, 9999),
    st.dictionaries(st.sampled_from(SKUS), st.integers(0, 5)),
    st.none() | st.integers(0, 2),
    st.none() | st.integers(0, 6),
)
RULES = st.builds(
    lambda name, objectives, split, kept, partial, kinds, most: rule(
        name,
        objectives=tuple(objectives),
        split=split,
        safety_stock=kept,
        is_partial=partial,
        kinds=kinds,
        parcels_max=most,
    ),
    st.uuids().map(str),
    st.lists(st.sampled_from(Objective), min_size=1, max_size=3, unique=True),
    st.sampled_from(Split),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([frozenset(), frozenset({"STORE"})]),
    st.integers(1, 4),
)


@given(
    lines=st.dictionaries(st.sampled_from(SKUS), st.integers(1, 6), min_size=1),
    places=st.lists(PLACES, max_size=7, unique_by=lambda p: p.location_id),
    rules=st.lists(RULES, min_size=1, max_size=3),
    parcels_max=st.integers(1, 5),
)
def test_a_plan_never_takes_more_than_there_is_nor_more_than_a_location_can_take_on(
    lines: dict[str, int], places: list[Place], rules: list[Rule], parcels_max: int
) -> None:
    plan = planned([line(sku, quantity) for sku, quantity in lines.items()], places, *rules, parcels_max=parcels_max)
    by_id = {each.location_id: each for each in places}
    for parcel in plan.parcels:
        at = by_id[parcel.location_id]
        assert at.orders_left is None or at.orders_left > 0
        assert at.units_left is None or sum(parcel.lines.values()) <= at.units_left
        assert all(0 < units <= at.atp[sku] for sku, units in parcel.lines.items())
    assert len(plan.parcels) <= parcels_max
    assert len({parcel.location_id for parcel in plan.parcels}) == len(plan.parcels)
    left = {each.sku: each.quantity for each in plan.unsourced}
    for sku, quantity in lines.items():
        assert sum(parcel.lines.get(sku, 0) for parcel in plan.parcels) + left.get(sku, 0) == quantity
    if len(rules) == 1 and rules[0].split is not Split.UNITS:
        assert all(units == lines[sku] for parcel in plan.parcels for sku, units in parcel.lines.items())
    assert all(score.bound <= score.value for result in plan.rules for score in result.scores)
    assert plan.is_proven_optimal
    assert plan.gap == 0
    explained = {(each.location_id, each.rule) for each in plan.considered}
    for result in plan.rules:
        if result.places or result.outcome.startswith("no location"):
            taken = {parcel.location_id for parcel in plan.parcels}
            assert {(each, result.rule) for each in by_id} - explained <= {(each, result.rule) for each in taken}


def test_places_stand_in_the_order_in_which_a_policy_would_choose_one_after_the_other() -> None:
    """Of 60 drawn problems: the first is chosen, without it the second, and so on until nobody is."""
    kinds = ("STORE", "WAREHOUSE")
    for seed in range(60):
        rng = random.Random(seed)
        rules = [
            rule(
                f"rule {n}",
                kinds=frozenset(rng.sample(kinds, rng.randint(0, 1))),
                brands=frozenset(rng.choice(((), (), ("house",), ("other",)))),
                methods=frozenset(rng.choice(((), (SHIP,), (PICKUP,)))),
                distance_metres_max=rng.choice((None, 600)),
                safety_stock=rng.choice((0, 0, 1)),
                objectives=tuple(rng.sample(list(Objective), rng.randint(1, 4))),
                split=rng.choice(list(Split)),
            )
            for n in range(rng.randint(1, 3))
        ]
        costs = {kind: Costs(parcel_minor=rng.randint(0, 9), kilogram_minor=rng.randint(0, 2)) for kind in kinds}
        policy = Policy(name="test", rules=tuple(rules), costs=costs)
        wanted = line("milk", rng.randint(1, 3), brand="house", grams=rng.randint(0, 500))
        places = [
            place(
                f"place {n}",
                rng.choice((None, 100, 500, 900)),
                rng.choice(kinds),
                atp={"milk": rng.randint(0, 6)},
                schedule=Schedule(HALF_DAY, "UTC", rng.choice((30, 60, 600))),
                units_left=rng.choice((None, None, 2)),
                orders_left=rng.choice((None, None, 0)),
            )
            for n in range(8)
        ]
        ranked = rank(wanted, places, policy, method=SHIP, now=NOW, excluded=["place 7"])
        assert sorted(each.place.location_id for each in ranked) == [f"place {n}" for n in range(7)]
        gone = {"place 7"}
        for each in ranked:
            plan = source([wanted], places, policy.of_one(), method=SHIP, now=NOW, excluded=gone)
            chosen = [(parcel.location_id, parcel.rule) for parcel in plan.parcels]
            assert chosen == ([(each.place.location_id, each.rule)] if each.rule else []), (seed, each)
            gone.add(each.place.location_id)


def test_what_is_said_of_a_place_is_its_figures_or_why_no_rule_chooses_it() -> None:
    places = [
        place("near", 100, atp={"milk": 1}),
        place("far", 900, atp={"milk": 5}),
        place("out", 950, atp={"milk": 9}),
    ]
    policy = Policy(name="test", rules=(rule(objectives=(NEAREST, PARCELS), distance_metres_max=900),))
    ranked = rank(line("milk", 2), places, policy, method=SHIP, now=NOW)
    assert [(each.place.location_id, each.rule, each.detail) for each in ranked] == [
        ("far", "rule", "nearest 900, fewest_parcels 1"),
        ("near", "", "has 1 of 2 units"),
        ("out", "", "950 m away; 900 m at most"),
    ]
