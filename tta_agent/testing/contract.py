"""Contract of every adapter, one check each."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from tta_agent.core.protocols import Adapter
from tta_agent.models.batchnorm import AdaptiveBatchNorm
from tta_agent.testing.nets import batch, everyone, fingerprint, learn, nobody, same, tensors_of

Make = Callable[[nn.Module], Adapter]
WILD = (1e20, -1e20, 3e38, float("inf"), float("nan"))  # infinite when squared, summed, or as they stand


def check_reset_is_exact(make: Make, model: nn.Module) -> None:
    """After a reset nothing of what was learnt is left, in weights, averages or optimiser."""
    adapter, untouched = make(model), make(model)
    learn(adapter)
    adapter.reset()
    assert same(fingerprint(adapter), fingerprint(untouched))
    learn(adapter)
    learn(untouched)
    assert same(fingerprint(adapter), fingerprint(untouched))


def check_empty_selection_touches_nothing(make: Make, model: nn.Module) -> None:
    """Neither weights nor momentum nor statistics."""
    adapter = make(model)
    learn(adapter)
    before, x = fingerprint(adapter), batch(seed=9)
    report = adapter.step(x, adapter.forward(x), nobody(x))
    assert (report.used, report.loss) == (0, None)
    assert same(before, fingerprint(adapter))


def check_predict_has_no_side_effect(make: Make, model: nn.Module) -> None:
    """Not even between forward and step."""
    adapter, other = make(model), make(model)
    for each, disturb in ((adapter, True), (other, False)):
        x = batch()
        logits = each.forward(x)
        if disturb:
            each.predict(batch(5, seed=3))
        each.step(x, logits, everyone(x))
    assert same(fingerprint(adapter), fingerprint(other))


def check_predict_equals_forward(make: Make, model: nn.Module) -> None:
    """The same numbers, without graph."""
    adapter, x = make(model), batch()
    learn(adapter)
    predicted = adapter.predict(x)
    assert not predicted.requires_grad
    assert torch.allclose(adapter.forward(x), predicted, atol=1e-6)


def check_input_is_left_alone(make: Make, model: nn.Module) -> None:
    """The batch and the model that was given do not change."""
    before = copy.deepcopy(model.state_dict())
    adapter, x = make(model), batch()
    kept = x.clone()
    adapter.step(x, adapter.forward(x), everyone(x))
    assert torch.equal(x, kept)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def check_servable_answers_each_alone(make: Make, model: nn.Module) -> None:
    """One sample's answer does not depend on what else is in the batch; plain layers only."""
    adapter, x = make(model), batch()
    learn(adapter)
    served = adapter.servable()
    assert not any(isinstance(module, AdaptiveBatchNorm) for module in served.modules())
    assert served.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        alone = torch.cat([served(x[i : i + 1]) for i in range(len(x))])
        assert torch.allclose(served(x), alone, atol=1e-5)


def check_servable_stands_still(make: Make, model: nn.Module) -> None:
    """Learning on does not move a snapshot."""
    adapter = make(model)
    served = adapter.servable()
    before = copy.deepcopy(served.state_dict())
    learn(adapter)
    assert all(torch.equal(before[name], tensor) for name, tensor in served.state_dict().items())


def check_state_round_trip(make: Make, model: nn.Module) -> None:
    """A second adapter with the first one's state goes on bit-equal."""
    one, other = make(model), make(model)
    learn(one)
    other.load_state_dict(one.state_dict())
    learn(one, seed=20)
    learn(other, seed=20)
    assert same(fingerprint(one), fingerprint(other))


def check_odd_batches(make: Make, model: nn.Module) -> None:
    """One sample, a short batch and constant images raise nothing and write no NaN."""
    adapter = make(model)
    for x in (batch(1), batch(3), torch.zeros(8, 1, 8, 8), torch.ones(1, 1, 8, 8)):
        adapter.step(x, adapter.forward(x), everyone(x))
    assert all(torch.isfinite(t).all() for t in fingerprint(adapter) if t.is_floating_point())


def check_equal_logits(make: Make, model: nn.Module) -> None:
    """A net that cannot tell any class from another raises nothing and gets no NaN."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in list(model.parameters())[-2:]:  # the classifier
            parameter.zero_()
    adapter = make(model)
    learn(adapter)
    assert all(torch.isfinite(t).all() for t in fingerprint(adapter) if t.is_floating_point())


def check_nan_input_resets(make: Make, model: nn.Module) -> None:
    """NaN never reaches the weights: reset, and reported."""
    adapter, untouched = make(model), make(model)
    learn(adapter)
    x = torch.full((4, 1, 8, 8), float("nan"))
    report = adapter.step(x, adapter.forward(x), everyone(x))
    if report.used == 0 and not report.diagnostics:
        return  # an adapter that learns nothing has nothing to protect
    assert report.diagnostics["nonfinite"]
    assert same(fingerprint(adapter), fingerprint(untouched))


def check_single_wild_inputs_leave_no_trace(make: Make, model: nn.Module) -> None:
    """A batch with one pixel of 1e20, 3e38, infinity or NaN changes next to nothing, and everything stays finite."""
    before, y = make(model), batch(64, seed=10)
    learn(before)
    for value in WILD:
        adapter, x = make(model), batch(seed=9)
        learn(adapter)
        x[3, 0, 2, 2] = value
        adapter.step(x, adapter.forward(x), everyone(x))
        served = adapter.servable()
        with torch.no_grad():
            assert torch.allclose(served(y), before.servable()(y), atol=0.05), f"moved by a pixel of {value}"
        tensors = [*fingerprint(adapter), *served.state_dict().values(), adapter.predict(y)]
        assert all(torch.isfinite(t).all() for t in tensors if t.is_floating_point()), f"a pixel of {value}"


def check_unsound_copy_starts_over(make: Make, model: nn.Module) -> None:
    """A copy that holds numbers that are not finite is reset by its next step, and reported."""
    adapter, untouched, x = make(model), make(model), batch()
    learn(adapter)
    state = copy.deepcopy(adapter.state_dict())
    floats = [t for t in tensors_of(state) if t.is_floating_point()]
    for tensor in floats:
        tensor.view(-1)[:1] = float("inf")
    if not floats:
        return  # nothing changes in it
    adapter.load_state_dict(state)
    assert adapter.step(x, adapter.forward(x), everyone(x)).diagnostics["nonfinite"]
    assert same(fingerprint(adapter), fingerprint(untouched))


ADAPTER_CHECKS: tuple[Callable[[Make, nn.Module], None], ...] = (
    check_reset_is_exact,
    check_empty_selection_touches_nothing,
    check_predict_has_no_side_effect,
    check_predict_equals_forward,
    check_input_is_left_alone,
    check_servable_answers_each_alone,
    check_servable_stands_still,
    check_state_round_trip,
    check_odd_batches,
    check_equal_logits,
    check_nan_input_resets,
    check_single_wild_inputs_leave_no_trace,
    check_unsound_copy_starts_over,
)
