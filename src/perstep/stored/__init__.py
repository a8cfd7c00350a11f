"""Runs that exist: compared, judged, exported. Nothing is measured here but how much runs of one code differ."""
