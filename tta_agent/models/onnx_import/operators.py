"""Operators: the table, and arithmetic. Each is a function of tensors, numbers and attributes.

Inputs that are sizes, axes or bounds rather than tensors (`host`) come as numbers and lists of numbers, and so do
constants without axes; while a graph is traced they may be symbolic.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Number = int | float
Sizes = Sequence[int]


@dataclass(frozen=True, slots=True)
class Operator:
    """Function of one operator, and the form of its inputs.

    Attributes:
        call: tensors and attributes to a tensor, or to several.
        host: inputs that are numbers to it.
        asks_only: the function looks at shape or type, never at values.
        makes: the function takes no tensor and needs `like`, to know the device.
    """

    call: Callable[..., Any]
    host: frozenset[int] = frozenset()
    asks_only: bool = False
    makes: bool = False


OPERATORS: dict[str, Operator] = {}
Function = Callable[..., Any]


def register(
    name: str, *host: int, asks_only: bool = False, makes: bool = False
) -> Callable[[Function], Function]:
    """Register a function as an operator."""

    def put(function: Function) -> Function:
        OPERATORS[name] = Operator(function, frozenset(host), asks_only, makes)
        return function

    return put


_PLAIN: dict[str, Function] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Add": operator.add,
    "And": torch.logical_and,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Equal": operator.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Log": torch.log,
    "Mish": F.mish,
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pow": operator.pow,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Sub": operator.sub,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}
for _name, _function in _PLAIN.items():
    register(_name)(_function)


@register("Div")
def divide(a: Tensor | Number, b: Tensor | Number) -> Any:
    """Quotient; integers are divided towards zero."""
    if _integral(a) and _integral(b):
        return torch.div(torch.as_tensor(a), torch.as_tensor(b), rounding_mode="trunc")
    return a / b


@register("Mod")
def modulo(a: Tensor | Number, b: Tensor | Number, fmod: int = 0) -> Tensor:
    """Remainder with the sign of the divisor, or with `fmod` of the dividend."""
    return (torch.fmod if fmod else torch.remainder)(torch.as_tensor(a), torch.as_tensor(b))


def _integral(value: Tensor | Number) -> bool:
    return not value.is_floating_point() if isinstance(value, Tensor) else not isinstance(value, float)


def _over(pairwise: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def call(*values: Tensor | Number) -> Tensor:
        like = next(value for value in values if isinstance(value, Tensor))
        tensors = [value if isinstance(value, Tensor) else like.new_tensor(value) for value in values]
        return functools.reduce(pairwise, tensors)

    return call


register("Max")(_over(torch.maximum))
register("Min")(_over(torch.minimum))
register("Sum")(_over(torch.add))


@register("Mean")
def mean(*values: Tensor) -> Tensor:
    """Mean of several tensors, broadcast."""
    total: Tensor = _over(torch.add)(*values)
    return total / len(values)


@register("Selu")
def selu(x: Tensor, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    """Scaled exponential linear unit: gamma x, or gamma alpha (e^x - 1) below zero."""
    return gamma * F.elu(x, alpha)


@register("Celu")
def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Continuously differentiable exponential linear unit."""
    return F.celu(x, alpha)


@register("ThresholdedRelu")
def thresholded_relu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is above alpha, else 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@register("Swish")
def swish(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


@register("Shrink")
def shrink(x: Tensor, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """x moved by the bias towards 0 where it is further than lambd from it, else 0."""
    return torch.where(x.abs() > lambd, x - bias * torch.sign(x), torch.zeros_like(x))


@register("Scale")
def scale(x: Tensor, by: float) -> Tensor:
    """Product with a number; a part of fused operators, and no operator of the standard."""
    return x * by


@register("HardSigmoid")
def hard_sigmoid(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Piecewise linear sigmoid, max(0, min(1, alpha x + beta))."""
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return (alpha * x + beta).clamp(0, 1)


@register("Gelu")
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit, exact or by tanh."""
    return F.gelu(x, approximate=approximate)


@register("Elu")
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit: alpha (e^x - 1) below zero."""
    return F.elu(x, alpha)


@register("LeakyRelu")
def leaky_relu(x: Tensor, alpha: float = 0.01) -> Tensor:
    """Leaky rectifier: alpha x below zero."""
    return F.leaky_relu(x, alpha)


@register("PRelu")
def prelu(x: Tensor, slope: Tensor | Number) -> Tensor:
    """Parametric rectifier: slope x below zero; the slope is broadcast."""
    return torch.where(x < 0, x * slope, x)


@register("Clip", 1, 2)
def clip(x: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    """Clip to the bounds; either may be missing."""
    return x if min is None and max is None else torch.clamp(x, min, max)


@register("Cast")
def cast(x: Tensor, to: torch.dtype | None, saturate: int = 1) -> Tensor:
    """Cast to another type."""
    if to is None:
        raise NotImplementedError("a type that torch does not have")
    return x.to(to)


@register("CastLike", asks_only=True)
def cast_like(x: Tensor, like: Tensor, saturate: int = 1) -> Tensor:
    """Cast to the type of `other`."""
    return x.to(like.dtype)


@register("Identity")
def identity(x: Tensor) -> Tensor:
    """Identity."""
    return x


@register("Dropout")
def dropout(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Identity: the graph is served in inference mode."""
    return x
