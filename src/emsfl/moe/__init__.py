"""The moe room."""
