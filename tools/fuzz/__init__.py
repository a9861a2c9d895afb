"""Fuzzing of everything that reads what strangers made: ``python -m tools.fuzz --help``."""
