"""The rollout of a candidate: evaluation, promotion, bake, roll-back."""
