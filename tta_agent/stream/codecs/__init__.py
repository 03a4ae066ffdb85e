"""Wire formats: one file for each, installed in the entry-point group `tta_agent.codecs`; what they share beside.

A malformed record raises DecodeError with a reason.
"""
