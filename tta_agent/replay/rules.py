"""Rules of `--fail-if`: comparisons of figures, such as `served_accuracy < source - 0.5`.

Names, numbers, + - * /, comparisons, `and`, `or`, brackets. Nothing else is understood, so nothing else can run.
Accuracies and their differences are in points, 0 .. 100.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tta_agent.core.errors import ConfigError, nearest

WHO = ("source", "served", "online", "oracle")
ACCURACIES = {name: f"{who}_accuracy" for who in WHO for name in (who, f"{who}_accuracy")}
POINTS = {**ACCURACIES, "gain": "gain", "regret": "regret", "worst_window": "worst_window_below_source"}
COUNTS = ("swaps", "rollbacks", "verdicts")
PLAIN = (
    "records", "labelled", "adapted", "labels_used", "labels_arrived", "labels_per_swap", "seconds",
    "times_forward",
)  # fmt: skip
RENAMED = {"time_below_source": "time_below_source_s"}
NAMES = (*POINTS, *COUNTS, *PLAIN, *RENAMED)
MOST_LETTERS = 500
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
Figures: TypeAlias = Mapping[str, float | None]
Number: TypeAlias = Callable[[Figures], float]
Truth: TypeAlias = Callable[[Figures], list[str]]  # what makes it true, in words; empty where it is false


@dataclass(frozen=True, slots=True)
class Rule:
    """Condition on which a policy fails.

    Attributes:
        policy: name of the policy that it is for; None for all.
        truth: function of figures to the reasons why the condition holds; empty where it does not.
    """

    text: str
    policy: str | None
    truth: Truth

    def broken(self, name: str, figures: Figures) -> str | None:
        """Message by how much a policy fails; None where it does not.

        Raises:
            ConfigError: a figure is not known (nothing was labelled), or a division by zero.
        """
        if self.policy not in (None, name):
            return None
        try:
            why = self.truth(figures)
        except ArithmeticError as error:
            raise ConfigError(f"--fail-if {self.text!r}: {error}") from None
        return f"{name} fails {self.text!r}: {'; '.join(why)}" if why else None


def parse(text: str, policies: Sequence[str] = ()) -> Rule:
    """Parse a rule for all policies, or for one: `POLICY: served < source`.

    Raises:
        ConfigError: what is not understood, with what is.
    """
    head, colon, tail = text.partition(":")
    policy, body = (head.strip(), tail.strip()) if colon else (None, text.strip())
    if policy is not None and policy not in policies:
        raise ConfigError(f"--fail-if {text!r}: no policy {policy!r} is played; {nearest(policy, policies)}")
    if len(body) > MOST_LETTERS:
        raise ConfigError(f"--fail-if: {len(body)} letters; expected {MOST_LETTERS} at most")
    try:
        tree = ast.parse(body, mode="eval").body
        return Rule(text, policy, _truth(tree))
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        raise ConfigError(
            f"--fail-if {text!r} is not a comparison; try: served_accuracy < source - 0.5"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"--fail-if {text!r}: {error}") from None


def figures(result: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures of one policy of `outcome.compare`, by their names in rules."""
    both = {**result, **policy}
    points = {name: None if both[key] is None else 100 * both[key] for name, key in POINTS.items()}
    counts = {name: len(both[name]) for name in COUNTS}
    return {**points, **counts, **{n: both[n] for n in PLAIN}, **{n: both[k] for n, k in RENAMED.items()}}


def _truth(node: ast.expr) -> Truth:
    match node:
        case ast.BoolOp(op=op, values=values):
            return _joined(isinstance(op, ast.And), [_truth(value) for value in values])
        case ast.Compare(left=left, ops=ops, comparators=rest):
            sides = [left, *rest]
            pairs = zip(sides, ops, sides[1:], strict=False)
            return _joined(True, [_compared(a, op, b) for a, op, b in pairs])
    raise ConfigError(f"{ast.unparse(node)!r} is not a comparison; try: served_accuracy < source - 0.5")


def _joined(every: bool, parts: Sequence[Truth]) -> Truth:
    """From left to right, as far as is needed: `swaps > 0 and labels_per_swap > 200` is never unknown."""

    def truth(figures: Figures) -> list[str]:
        said: list[str] = []
        for part in parts:
            found = part(figures)
            if bool(found) != every:
                return found
            said += found
        return said

    return truth


def _compared(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Truth:
    compare = _COMPARISONS.get(type(op))
    if compare is None:
        raise ConfigError("expected one of < <= > >= == != between two figures")
    _refuse_share(left, right)
    _refuse_share(right, left)
    a, b = _number(left), _number(right)
    names = ast.unparse(left), ast.unparse(right)

    def truth(figures: Figures) -> list[str]:
        x, y = a(figures), b(figures)
        told = [
            name if name == f"{v:g}" else f"{name} is {v:.4g}" for name, v in zip(names, (x, y), strict=True)
        ]
        return [f"{told[0]} against {told[1]}, by {abs(x - y):.4g}"] if compare(x, y) else []

    return truth


def _refuse_share(name: ast.expr, other: ast.expr) -> None:
    """0.8 for 80 points would be a test that never fails."""
    if (
        isinstance(name, ast.Name)
        and name.id in ACCURACIES  # a gain of half a point is meant as it stands
        and isinstance(other, ast.Constant)
        and isinstance(other.value, float)
        and 0 < other.value < 1
    ):
        raise ConfigError(f"{name.id} is in points, 0 .. 100: did you mean {100 * other.value:g}?")


def _number(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            number = float(value)
            return lambda figures: number
        case ast.Name(id=name):
            return _figure(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _number(operand)
            return lambda figures: -inner(figures)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            a, do, b = _number(left), _ARITHMETIC[type(op)], _number(right)
            return lambda figures: do(a(figures), b(figures))
    raise ConfigError(f"{ast.unparse(node)!r} is not understood; expected names, numbers and + - * /")


def _figure(name: str) -> Number:
    if name not in NAMES:
        raise ConfigError(f"no figure {name!r}; {nearest(name, NAMES)}")

    def number(figures: Figures) -> float:
        value = figures[name]
        if value is None:
            raise ArithmeticError(f"{name} is not known: too few labels in the recording, or no swap")
        return float(value)

    return number
