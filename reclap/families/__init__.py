"""How other projects name and lay out what ours holds."""
