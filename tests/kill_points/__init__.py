"""The worker is killed at every place where it awaits anything, one run each, and the world must come clean.

`points` finds the places in the sources, `instrument` puts a call before and after each of them into the worker
processes of these tests (the product has no hook), `scenarios` lead a worker past all of them, and `campaign` kills.
"""
