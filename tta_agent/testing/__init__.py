"""For the tests of plugins, ours and yours: tiny nets, and the contract that every adapter keeps.

from tta_agent import testing
@pytest.mark.parametrize("check", testing.ADAPTER_CHECKS)
def test_contract(check): check(lambda model: MyAdapter(model), testing.tiny_net("batch"))
"""

from __future__ import annotations

from tta_agent.testing.contract import (
    ADAPTER_CHECKS,
    WILD,
    Make,
    check_empty_selection_touches_nothing,
    check_equal_logits,
    check_input_is_left_alone,
    check_nan_input_resets,
    check_odd_batches,
    check_predict_equals_forward,
    check_predict_has_no_side_effect,
    check_reset_is_exact,
    check_servable_answers_each_alone,
    check_servable_stands_still,
    check_single_wild_inputs_leave_no_trace,
    check_state_round_trip,
    check_unsound_copy_starts_over,
)
from tta_agent.testing.gates import Anything
from tta_agent.testing.nets import (
    CLASSES,
    Kind,
    batch,
    everyone,
    fingerprint,
    learn,
    nobody,
    same,
    tiny_net,
)

__all__ = [
    "ADAPTER_CHECKS",
    "CLASSES",
    "WILD",
    "Anything",
    "Kind",
    "Make",
    "batch",
    "check_empty_selection_touches_nothing",
    "check_equal_logits",
    "check_input_is_left_alone",
    "check_nan_input_resets",
    "check_odd_batches",
    "check_predict_equals_forward",
    "check_predict_has_no_side_effect",
    "check_reset_is_exact",
    "check_servable_answers_each_alone",
    "check_servable_stands_still",
    "check_single_wild_inputs_leave_no_trace",
    "check_state_round_trip",
    "check_unsound_copy_starts_over",
    "everyone",
    "fingerprint",
    "learn",
    "nobody",
    "same",
    "tiny_net",
]
