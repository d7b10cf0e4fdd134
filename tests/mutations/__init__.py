"""Sabotage: single, small edits of the product, each of which breaks a promise. The suite must notice every one.

`python -m tests.mutations` makes each edit in a copy of the project, runs the tests that are said to catch it, and
fails if one survives. `docs/mutations.md` is the table.
"""
