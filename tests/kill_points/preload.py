"""Imported once, by the process that worker processes are forked from; importing it is what changes the worker."""

import importlib

from tests.kill_points import instrument

instrument.install()
importlib.import_module("worker.service")
