"""The policy of returns: windows, final sale, overrides; and its file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from onhand.domain.return_errors import FinalSale, ReturnWindowPassed
from onhand.domain.returns import (
    BlindPolicy,
    Counted,
    Fulfilled,
    ReturnPolicy,
    SignalKind,
    SignalPolicy,
    Subject,
    blind_refusals,
    lowest_refund,
    overridden,
    policy_refusals,
    signals,
)
from onhand.returns.policy_file import ReturnPolicyError, load_policy, parse_policy, policy_of

SOLD = datetime(2026, 1, 1, 12, tzinfo=UTC)


def judged(policy: ReturnPolicy, days: float, department: str = "toys", sku: str = "bear") -> list[str]:
    """Why a line is not taken back so many days after it was sold."""
    line = Fulfilled(1, sku, department, SOLD)
    return [refusal.reason for refusal in policy_refusals(policy, "o", [line], SOLD + timedelta(days=days))]


@pytest.mark.parametrize(("days", "reasons"), [(0, []), (14, []), (14.001, ["RETURN_WINDOW_PASSED"])])
def test_the_last_moment_of_a_window_is_within_it(days: float, reasons: list[str]) -> None:
    assert judged(ReturnPolicy(window_days=14), days) == reasons


def test_a_window_of_no_days_is_over_at_once_and_no_window_never() -> None:
    assert judged(ReturnPolicy(window_days=0), 0.001) == ["RETURN_WINDOW_PASSED"]
    assert judged(ReturnPolicy(window_days=None), 100_000) == []


def test_a_department_has_its_own_window() -> None:
    policy = ReturnPolicy(window_days=90, department_window_days={"phones": 14})
    assert judged(policy, 15, "phones") == ["RETURN_WINDOW_PASSED"]
    assert judged(policy, 15) == []
    assert policy.window_end("phones", SOLD) == SOLD + timedelta(days=14)


def test_final_sale_is_by_sku_and_by_department() -> None:
    policy = ReturnPolicy(final_sale_skus=frozenset({"bear"}), final_sale_departments=frozenset({"gifts"}))
    assert judged(policy, 1) == ["FINAL_SALE"]
    assert judged(policy, 1, "gifts", "card") == ["FINAL_SALE"]
    assert judged(policy, 1, "toys", "ball") == []


def test_what_was_never_handed_over_has_no_window() -> None:
    assert policy_refusals(ReturnPolicy(window_days=0), "o", [Fulfilled(1, "bear", "toys", None)], SOLD) == []


def test_the_first_refusal_is_raised_unless_all_are_let_pass() -> None:
    refusals = [FinalSale("bear"), ReturnWindowPassed("o", 1, "bear", "then", 3), FinalSale("ball")]
    with pytest.raises(FinalSale):
        overridden(refusals, is_overridden=False)
    assert overridden(refusals, is_overridden=True) == ["FINAL_SALE", "RETURN_WINDOW_PASSED"]
    assert overridden([], is_overridden=False) == []


def test_the_lowest_price_is_the_lowest_for_the_quantity() -> None:
    assert lowest_refund([(199, 1), (500, 3), (180, 1)], 3) == 500
    assert lowest_refund([(199, 1), (500, 3), (180, 1)], 1) == 167
    assert lowest_refund([], 1) is None


def test_the_standard_policy_is_what_the_code_says_without_a_file() -> None:
    assert load_policy() == policy_of({}) == ReturnPolicy()


def test_what_a_file_leaves_out_is_the_standard_but_for_the_window() -> None:
    assert parse_policy("", "empty.toml") == ReturnPolicy(window_days=None)


def test_a_file_says_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "returns.toml"
    path.write_text("""
        name = "shoes"
        window_days = 365
        authorization_days = 14
        department_window_days = { socks = 7 }
        final_sale = { skus = ["left-shoe"], departments = ["worn"] }
        [blind]
        returns_per_day_max = 0
        refunds = ["CASH", "STORE_CREDIT"]
        [signals]
        returns_max = 2
    """)
    policy = policy_of({"ONHAND_RETURN_POLICY": str(path)})
    assert (policy.name, policy.window_days, policy.authorization_days) == ("shoes", 365, 14)
    assert (policy.window_of("socks"), policy.is_final_sale("left-shoe", "")) == (7, True)
    assert (policy.blind.returns_per_day_max, policy.blind.refunds) == (0, ("CASH", "STORE_CREDIT"))
    assert policy.signals.returns_max == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("window_days = -1", "window_days = -1 is not allowed: a whole number from 0 to 36500"),
        ("window_days = true", "window_days = True"),
        ("windows = 3", "windows is not known"),
        ("final_sale = 3", "final_sale = 3 is not allowed: a table"),
        ("[final_sale]\nskus = [1]", "[final_sale] skus"),
        ("[blind]\nrefunds = ['GOLD']", "one or more of STORE_CREDIT, CASH"),
        ("[blind]\nrefunds = []", "[blind] refunds = []"),
        ("[signals]\nreceiptless_percent_max = 101", "a whole number from 0 to 100"),
        ("[department_window_days]\ntoys = 'long'", "department_window_days"),
        ("name = ''", "a text of 1 to 100 characters"),
        ("name", "is no TOML"),
    ],
)
def test_a_file_that_can_not_be_used_says_why(text: str, said: str) -> None:
    with pytest.raises(ReturnPolicyError) as refused:
        parse_policy(text, "returns.toml")
    assert said in str(refused.value)
    assert str(refused.value).startswith("returns.toml: ")


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReturnPolicyError, match=r"cannot be read"):
        policy_of({"ONHAND_RETURN_POLICY": str(tmp_path / "none.toml")})


def beyond(**brought: int | str) -> list[str]:
    """Which limits a blind return is beyond."""
    values = {"refund_kind": "STORE_CREDIT", "refund_minor": 1, "day_returns": 1, "day_minor": 1, **brought}
    policy = BlindPolicy(returns_per_day_max=2, amount_minor_max=500, amount_per_day_minor_max=800)
    return [getattr(r, "limit", r.reason) for r in blind_refusals(policy, "ada", **values)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("brought", "limits"),
    [
        ({"day_returns": 2, "refund_minor": 500, "day_minor": 800}, []),
        ({"day_returns": 3}, ["returns of a day"]),
        ({"refund_minor": 501}, ["minor units of a return"]),
        ({"day_minor": 801}, ["minor units of a day"]),
        ({"refund_kind": "CASH"}, ["BLIND_REFUND_NOT_ALLOWED"]),
        (
            {"refund_kind": "CASH", "day_returns": 3, "refund_minor": 900, "day_minor": 900},
            ["returns of a day", "minor units of a return", "minor units of a day", "BLIND_REFUND_NOT_ALLOWED"],
        ),
    ],
)
def test_every_limit_without_a_proof_is_told(brought: dict[str, int | str], limits: list[str]) -> None:
    assert beyond(**brought) == limits


@pytest.mark.parametrize(
    ("subject", "returns", "receiptless", "found"),
    [
        (Subject.CUSTOMER, 5, 2, []),
        (Subject.CUSTOMER, 6, 0, [(SignalKind.REPEATED_RETURNS, 6, 5)]),
        (Subject.CUSTOMER, 5, 3, [(SignalKind.RECEIPTLESS_RATE, 60, 50)]),
        (Subject.CUSTOMER, 8, 4, [(SignalKind.REPEATED_RETURNS, 8, 5)]),
        (Subject.ACTOR, 100, 50, []),
        (Subject.ACTOR, 100, 51, [(SignalKind.RECEIPTLESS_RATE, 51, 50)]),
        (Subject.ACTOR, 2, 2, []),
        (Subject.ACTOR, 0, 0, []),
    ],
)
def test_what_is_worth_a_look(
    subject: Subject, returns: int, receiptless: int, found: list[tuple[SignalKind, int, int]]
) -> None:
    policy = SignalPolicy(returns_max=5, receiptless_percent_max=50, receiptless_returns_min=3)
    told = signals(policy, [Counted(subject, "x", returns, receiptless)])
    assert [(signal.kind, signal.value, signal.allowed) for signal in told] == found
