"""From tables of events to one row per user, and from there to the flat columns that the transformers read."""
