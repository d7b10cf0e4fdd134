"""The handlers; importing this package registers them all."""

from gateway.handlers import artifacts, caches, health, masks

__all__ = ["artifacts", "caches", "health", "masks"]
