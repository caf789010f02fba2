"""Trackers, one file each: they follow the run's own files and may fail without harm (core/session/tracking.py)."""
