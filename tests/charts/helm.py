"""The chart through the real `helm`: rendered to objects, or refused with words."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

Json = dict[str, Any]

CHART: Final = Path(__file__).parent.parent.parent / "charts" / "dynapod"
RELEASE: Final = "release"
# A helm built without its release's flags takes itself for Kubernetes 1.20.
KUBE_VERSION: Final = "1.34.0"
PATIENCE_S: Final = 60


class RefusedError(Exception):
    """Helm would not render; the message is its own."""


@dataclass(frozen=True)
class Objects:
    """What a rendering consists of."""

    all: tuple[Json, ...]

    def __iter__(self) -> Iterator[Json]:
        return iter(self.all)

    def of(self, kind: str) -> list[Json]:
        """The objects of a kind, in the order of the rendering."""
        return [item for item in self.all if item["kind"] == kind]

    def one(self, kind: str, name: str, namespace: str | None = None) -> Json:
        """The object of this kind and name; fails unless there is exactly one."""
        found = [
            item
            for item in self.of(kind)
            if item["metadata"]["name"] == name and namespace in (None, item["metadata"].get("namespace"))
        ]
        assert len(found) == 1, f"{len(found)} objects {kind} {name}"
        return found[0]

    def container(self, deployment: str) -> Json:
        """The (only) main container of a deployment."""
        (container,) = self.one("Deployment", deployment)["spec"]["template"]["spec"]["containers"]
        return dict(container)

    def environment(self, deployment: str) -> dict[str, str]:
        """The plain variables of its container."""
        return {item["name"]: item["value"] for item in self.container(deployment)["env"] if "value" in item}

    def policy(self) -> Json:
        """The content of the policy's ConfigMap."""
        return dict(yaml.safe_load(self.one("ConfigMap", "dynapod-policy")["data"]["policy.yaml"]))


def require_helm() -> None:
    """Skip the calling test where there is no helm; against a cluster that would be a silent hole, and fails."""
    if shutil.which("helm"):
        return
    if os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG is set, but helm is not on PATH: install helm 3.19, or put it on PATH")
    pytest.skip("helm is not on PATH")


def render(
    values: Mapping[str, Any] | None = None, *, namespace: str = "default", apis: tuple[str, ...] = ()
) -> Objects:
    """The chart's objects under these values.

    Raises:
        RefusedError: Helm's words.
    """
    require_helm()
    command = ["helm", "template", RELEASE, str(CHART), "--namespace", namespace, "--kube-version", KUBE_VERSION]
    for api in apis:
        command += ["--api-versions", api]
    done = subprocess.run(
        [*command, "--values", "-"],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise RefusedError(done.stderr)
    return Objects(tuple(item for item in yaml.safe_load_all(done.stdout) if item is not None))
