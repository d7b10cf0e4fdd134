"""What people run in stock rq workers: create a pod with the synchronous client, poll it every second, delete it.

Nothing of dynapod's is imported: a worker that forks imports this module once for every job.
"""

import time
from functools import cache
from typing import Any, Final

from kubernetes import client, config
from rq import get_current_job

POLL_S: Final = 1.0


@cache
def api() -> Any:  # noqa: ANN401 - the client is untyped
    """One client a process: a `SimpleWorker` keeps its connections, a worker that forks has none to keep."""
    config.load_kube_config()
    return client.CoreV1Api()


def run(manifest: dict[str, Any], namespace: str) -> str:
    """From the manifest to the deleted pod, which is named after the job; the phase in which it ended."""
    job = get_current_job()
    assert job is not None
    name = f"stock-{job.id}"
    api().create_namespaced_pod(namespace, {**manifest, "metadata": {**manifest["metadata"], "name": name}})
    phase = "Pending"
    while phase not in {"Succeeded", "Failed"}:
        time.sleep(POLL_S)
        phase = api().read_namespaced_pod(name, namespace).status.phase
    api().delete_namespaced_pod(name, namespace)
    return str(phase)
