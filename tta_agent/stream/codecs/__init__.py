"""Bytes to values and back. Bad data ends here, as a DecodeError with a reason."""
