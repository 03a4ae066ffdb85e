"""The proof without labels: worlds are played before deployment, and evidence is read by what was seen there."""
