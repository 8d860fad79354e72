"""Doors into other libraries; nothing here is imported by the rest of the package."""
