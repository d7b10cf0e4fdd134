"""The pure core: descriptions, policy, rendering, classification, retry decisions and the wire contracts.

Nothing here does I/O, reads a clock or draws a random number; equal inputs give equal outputs. Modules that the
runner imports inside a pod (`anatomy`, `plan`, `report`, `transfer`, `version`) use the standard library only.
"""
