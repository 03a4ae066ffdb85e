"""Rehearsals before deployment: shifts of labelled images are played, and the proof without labels is fitted."""
