"""Faults that a lab can have on purpose: symptoms of real clusters, made real and taken back."""
