"""The one place that names dynapod's version."""

__version__ = "0.1.0"
