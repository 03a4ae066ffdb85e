"""What is watched: late labels and realised accuracy."""
