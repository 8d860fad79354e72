"""The page: a trained model looked at in a browser."""

from tost.app.command import app

__all__ = ["app"]
