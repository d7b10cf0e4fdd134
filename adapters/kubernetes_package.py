"""The asynchronous half of the official client, without its synchronous half.

`import kubernetes.aio` runs `kubernetes/__init__.py` first, which imports the synchronous client with requests,
oauthlib and websocket: 7 MB in every worker and 0.1 s of every command that talks to a cluster, for nothing. So that
package is put in its place without running its `__init__`, which runs when somebody asks for something from it.
"""

import sys
from importlib.util import find_spec, module_from_spec
from typing import Any


def defer_init(name: str) -> None:
    """Let a package be there with its folder, so that its parts can be imported; it is run at its first use.

    Nothing happens where it was imported before.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module named {name!r}", name=name)
    module, loader = module_from_spec(spec), spec.loader

    def run(attribute: str) -> Any:  # noqa: ANN401 - whatever the package has
        if part := sys.modules.get(f"{name}.{attribute}"):  # being imported just now: it will be an attribute then
            return part
        vars(module).pop("__getattr__", None)  # from here on it is a package like any other
        loader.exec_module(module)
        return getattr(module, attribute)

    vars(module)["__getattr__"] = run
    sys.modules[name] = module


defer_init("kubernetes")

from kubernetes.aio import config  # noqa: E402 - not before its package is prepared
from kubernetes.aio.client import ApiClient, Configuration  # noqa: E402 - as above

__all__ = ["ApiClient", "Configuration", "config"]
