"""aliascope."""
