"""One adapter per outside system; only it imports that system's library."""
