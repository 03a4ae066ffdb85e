import numpy as np
import torch

from tta_agent.scoring import sample_scores

LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0], [50.0, -50.0, 0.0]])
P = np.exp(LOGITS.double().numpy() - LOGITS.double().numpy().max(1, keepdims=True))
P /= P.sum(1, keepdims=True)


def test_entropy_in_nats_and_finite_at_the_corner():
    expected = -(P * np.log(np.maximum(P, 1e-300))).sum(1)
    assert np.allclose(sample_scores.entropy(LOGITS), expected, atol=1e-6)
    assert np.isclose(sample_scores.entropy(LOGITS)[1], sample_scores.max_entropy(3))


def test_confidence_and_margin():
    top = np.sort(P, axis=1)
    assert np.allclose(sample_scores.confidence(LOGITS), top[:, -1], atol=1e-6)
    assert np.allclose(sample_scores.margin(LOGITS), top[:, -1] - top[:, -2], atol=1e-6)
