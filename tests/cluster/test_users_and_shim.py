"""Who the steps run as, how the shim reaches them, and a failed job's container that stays: on real nodes."""

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from adapters.kubernetes_api import KubernetesApi
from runner_spec.policy import parse_policy
from tests.cluster.site import POLICY, Site, ended, job, kubernetes
from worker.capabilities import ask_user_namespaces

pytestmark = pytest.mark.cluster

MAPPING = 'read -r inside outside rest </proc/self/uid_map; echo "$inside $outside"'
WHO = f'id -u; touch ~/note "$PWD/note"; echo "home $HOME"; {MAPPING}'


@asynccontextmanager
async def unrestricted() -> AsyncIterator[KubernetesApi]:
    """A namespace that enforces no pod-security level."""
    name = f"dynapod-open-{uuid.uuid4().hex[:8]}"
    async with kubernetes(name) as api:
        await api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
        try:
            yield api
        finally:
            await api.call("DELETE", f"/api/v1/namespaces/{name}")


def test_the_cluster_is_asked_and_what_it_offers_is_proven_by_the_restricted_level(site: Site) -> None:
    async def test() -> None:
        async with site.api() as api:
            policy = parse_policy({**POLICY, "namespace": api.namespace})
            found = await ask_user_namespaces(policy, api, asker=uuid.uuid4().hex)
            assert (found.offered, "violates PodSecurity" in found.why) == (True, True), found.why
        async with unrestricted() as api:
            policy = parse_policy({**POLICY, "namespace": api.namespace})
            found = await ask_user_namespaces(policy, api, asker=uuid.uuid4().hex)
            assert (found.offered, "enforce the restricted" in found.why) == (False, True), found.why
            assert (await api.list_pods(""))[0] == []

    asyncio.run(test())


def test_steps_are_root_inside_and_nobody_outside(site: Site) -> None:
    async def test() -> None:
        with site.worker("root") as worker:
            end = await worker.run(job(WHO))
            assert end.verdict == "succeeded", end
            user, home, mapping = end.output.decode().splitlines()
            assert (user, home) == ("0", "home /dynapod/home")
            inside, outside = map(int, mapping.split())
            assert inside == 0
            assert outside >= 65536

    asyncio.run(test())


def test_without_a_user_namespace_steps_are_nobody_with_a_home(site: Site) -> None:
    async def test() -> None:
        with site.worker("uid", user_namespaces=False) as worker:
            end = await worker.run(job(WHO))
            assert end.verdict == "succeeded", end
            assert end.output.decode().splitlines()[:2] == ["1000", "home /dynapod/home"]

    asyncio.run(test())


def test_with_the_shim_in_a_volume_a_plain_job_is_a_pod_of_one_container(site: Site) -> None:
    async def test() -> None:
        with site.worker("alone", shim_delivery="image-volume") as worker:
            alone = await worker.run(job("echo hello; ! touch /dynapod/bin/shim"))
            assert (alone.verdict, set(alone.logs)) == ("succeeded", {"run"}), alone
            artifacts = [{"name": "note", "paths": ["note"]}]
            more = await worker.run(job("echo 1 >note", artifacts=artifacts))
            assert (more.verdict, set(more.logs)) == ("succeeded", {"run", "upload"}), more

    asyncio.run(test())


def test_a_failed_job_stays_for_a_look_around_and_stays_failed(site: Site) -> None:
    async def test() -> None:
        with site.worker("keep", max_keep="10m") as worker:
            async with site.client() as client:
                description = job("echo 7 >note; exit 3", keep="on-failure 5m", retry={"attempts": 2})
                submitted = await client.submit(description, queue=worker.queue)
                async with asyncio.timeout(100):
                    async for line in client.logs(submitted, 1, container="run", follow=True):
                        if b"kept for 5m: kubectl exec" in line.text:
                            break
                words = line.text.decode().partition("kept for 5m: ")[2].partition(";")[0].replace(" -it ", " -i ")
                command = [*words.split(), "-c", "cat note"]
                shown = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, text=True)
                assert shown.stdout == "7\n"
                canceling = await asyncio.to_thread(site.command, "cancel", submitted)
                assert canceling.returncode in {0, 1}, canceling.stderr
                end = await ended(client, submitted)
            # No second attempt, though the description allows one: somebody has asked for the end.
            assert (end.verdict, end.reason, len(end.status.attempts)) == ("failed", "exit", 1), end
            assert end.status.result["exit_code"] == 3

    asyncio.run(test())


def test_explain_asks_the_cluster(site: Site) -> None:
    (site.folder / "explained.yaml").write_text(json.dumps({**POLICY, "namespace": site.namespace}))
    (site.folder / "job.yaml").write_text(json.dumps(job("true")))
    policy, file = str(site.folder / "explained.yaml"), str(site.folder / "job.yaml")
    unasked = site.command("explain", "--policy", policy, file).stdout
    assert "uid 1000 (auto: root in a user namespace where the worker finds" in unasked
    asked = site.command("explain", "--policy", policy, "--kubeconfig", site.kubeconfig, file).stdout
    assert "root in a user namespace: nobody outside" in asked
    assert "# user_namespaces: auto: the cluster admits it inside a user namespace only" in asked
