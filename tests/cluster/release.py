"""The chart, installed by `helm` on the real cluster under names of its own, and what surrounds it there."""

import json
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.charts.cluster import KubectlError, get, kubectl, run, unique
from tests.charts.helm import CHART
from tests.cluster import images
from tests.cluster.servers import BUCKET

INSTALL_S: Final = 150
# The node is small, and shared with other tests.
SMALL: Final = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}}
# Sixty of them leave room on a node of two cores: for more workers, and for the pods of other tests.
TINY: Final = {"cpu": "15m", "memory": "64Mi", "ephemeral-storage": "64Mi"}


@dataclass(frozen=True)
class Release:
    """One installation: its namespaces, and `outside`, where the release itself and its neighbours live."""

    name: str
    outside: str
    system: str
    jobs: str

    def install(self, values: Mapping[str, Any]) -> None:
        """`helm install`, until everything is ready."""
        self._helm("install", self.name, str(CHART), "--wait", f"--timeout={INSTALL_S}s", values=values)

    def uninstall(self) -> None:
        """`helm uninstall`, until everything is gone."""
        self._helm("uninstall", self.name, "--wait", f"--timeout={INSTALL_S}s")

    def _helm(self, command: str, *arguments: str, values: Mapping[str, Any] | None = None) -> None:
        stdin = None
        if values is not None:
            arguments, stdin = (*arguments, "--values", "-"), json.dumps(values)
        run("helm", command, *arguments, "--namespace", self.outside, stdin=stdin, seconds=INSTALL_S + 30)

    def scale(self, workers: int) -> None:
        """`kubectl scale`, until there are as many workers as that, and no other ones."""
        deployment = "deployment/dynapod-worker"
        kubectl("scale", deployment, f"--replicas={workers}", "--namespace", self.system)
        kubectl("rollout", "status", deployment, "--namespace", self.system, f"--timeout={INSTALL_S}s")

    def redis_url(self) -> str:
        """The queue's URL as a producer gets it."""
        secret = get("secret", "dynapod-redis", "--namespace", self.system)
        return b64decode(secret["data"]["url"]).decode()

    @contextmanager
    def forwarded_redis(self) -> Iterator[str]:
        """The queue's URL as seen from this machine."""
        command = ["kubectl", "port-forward", "--namespace", self.system, "service/dynapod-redis", ":6379"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as forward:
            try:
                assert forward.stdout is not None
                said = forward.stdout.readline()
                found = re.search(r"127\.0\.0\.1:(\d+)", said)
                assert found, f"kubectl port-forward said {said!r}"
                yield re.sub(r"@[^/]+/", f"@127.0.0.1:{found[1]}/", self.redis_url())
            finally:
                forward.terminate()

    def traces(self) -> list[str]:
        """What of it is still in the cluster: every object that names it or its namespaces."""
        kinds = kubectl("api-resources", "--namespaced=false", "--verbs=list", "--output=name").split()
        everywhere = kubectl("get", ",".join(kinds), "--output=name").splitlines()
        # Where the release itself was recorded.
        everywhere += kubectl(
            "get", "secrets,configmaps", "--selector=owner=helm", "--output=name", "--namespace", self.outside
        ).splitlines()
        return [name for name in everywhere if any(own in name for own in (self.name, self.system, self.jobs))]

    def values(self, endpoint: str, store_environment: Mapping[str, str]) -> dict[str, Any]:
        """Locally built images, a Redis of Debian's, an S3 store at `endpoint`, room for 40 jobs a worker."""
        repository, _, tag = images.WORKER.rpartition(":")
        runner, _, runner_tag = images.RUNNER.rpartition(":")
        services, _, services_tag = images.SERVICES.rpartition(":")
        beside = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.outside}}}]
        store = {**store_environment, "AWS_ENDPOINT_URL": endpoint}
        return {
            "image": {"repository": repository, "tag": tag},
            "runnerImage": {"repository": runner, "tag": runner_tag},
            "namespaces": {"system": {"name": self.system}, "jobs": {"name": self.jobs}},
            "worker": {"replicas": 1, "capacity": 40, "resources": SMALL},
            "gateway": {"replicas": 1, "limits": {"transfers": 4}, "resources": SMALL},
            "redis": {
                "server": {"image": {"repository": services, "tag": services_tag}, "resources": SMALL},
            },
            "store": {
                "url": f"s3://{BUCKET}/chart",
                "env": [{"name": name, "value": value} for name, value in sorted(store.items())],
            },
            "policy": {
                "default_resources": TINY,
                "runner_resources": {"requests": TINY, "limits": {**TINY, "cpu": "1", "memory": "256Mi"}},
            },
            "network": {"producers": beside, "metrics": beside},
        }


@contextmanager
def release() -> Iterator[Release]:
    """Names for an installation, and the namespace beside it; whatever is left of both is removed after the block."""
    name = unique("release")
    mark = name.rpartition("-")[2]
    own = Release(name, f"dynapod-outside-{mark}", f"dynapod-system-{mark}", f"dynapod-jobs-{mark}")
    kubectl("create", "namespace", own.outside)
    try:
        yield own
    finally:
        try:
            run("helm", "uninstall", own.name, "--ignore-not-found", "--namespace", own.outside)
        except KubectlError as error:  # the test's own verdict matters more
            print(f"helm uninstall: {error}")  # noqa: T201 - shown by pytest when the test has failed
        kubectl("delete", "namespace", own.outside, own.system, own.jobs, "--ignore-not-found", "--wait=false")
