"""The orbit room."""
