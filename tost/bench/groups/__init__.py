"""The groups of `tost bench`, a module each (see tost.bench.command)."""
