"""From a candidate to a promotion, its bake, and back."""
