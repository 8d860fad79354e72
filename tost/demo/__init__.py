"""The demonstration: train on real images, look inside, measure, and write a page about it."""

from tost.demo.run import demo

__all__ = ["demo"]
