"""The authority."""
