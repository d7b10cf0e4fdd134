"""What happens to a pod: init containers, sidecars, ends, deletions, deadlines, messages."""

import asyncio
from typing import Any

import pytest

from tests.devcluster.conformance.api_client import (
    Client,
    Cluster,
    Json,
    asynchronous,
    container,
    pod,
    terminated,
    unique,
)

# A sidecar that ends as it is told to, and says when.
OBEDIENT = "trap 'echo stopped; exit {code}' TERM; echo up; while :; do sleep 0.1; done"


def conditions(found: Json) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c.get("reason", "")) for c in found["status"]["conditions"]}


@pytest.mark.parametrize(
    ("script", "code", "reason", "phase"),
    [
        ("exit 0", 0, "Completed", "Succeeded"),
        ("exit 3", 3, "Error", "Failed"),
        # "$$" is Kubernetes' escape of "$". A shell that is process 1 cannot kill itself: its child does it.
        ("sh -c 'kill -9 $$$$'; exit $?", 137, "Error", "Failed"),
    ],
)
@asynchronous
async def test_the_exit_code_decides_the_phase(
    cluster: Cluster, script: str, code: int, reason: str, phase: str
) -> None:
    async with cluster.client() as client:
        name = unique("exit")
        await client.create(pod(client, name, script))
        found = await client.ended(name)
        ended = terminated(found, "run")
        assert (found["status"]["phase"], ended["exitCode"], ended["reason"]) == (phase, code, reason)
        assert ended["startedAt"] <= ended["finishedAt"]
        assert ended["containerID"]
        why = "PodCompleted" if phase == "Succeeded" else "PodFailed"
        assert conditions(found)["Ready"] == ("False", why)
        assert conditions(found)["ContainersReady"] == ("False", why)
        assert conditions(found)["PodScheduled"] == ("True", "")
        assert found["spec"]["nodeName"]
        assert found["status"]["containerStatuses"][0]["restartCount"] == 0
        await client.delete(name)


@asynchronous
async def test_a_running_pod_is_ready(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("ready")
        await client.create(pod(client, name, "sleep 100"))
        found = await client.until(
            name,
            lambda p, _: any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", ())),
        )
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"):
            assert conditions(found)[kind][0] == "True"
        status = found["status"]["containerStatuses"][0]
        assert (status["ready"], status["started"], list(status["state"])) == (True, True, ["running"])
        assert found["status"]["hostIP"]
        assert found["status"]["podIP"]
        assert found["status"]["startTime"]
        await client.delete(name)


@asynchronous
async def test_init_containers_run_one_after_the_other(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("init")
        mount = {"volumeMounts": [{"name": "w", "mountPath": "/w"}], "workingDir": "/w"}
        inits = [container(client, f"i{n}", f"cat log; echo i{n} >>log", **mount) for n in (1, 2)]
        manifest = pod(
            client, name, "cat log", initContainers=inits, volumes=[{"name": "w", "emptyDir": {}}], container=mount
        )
        await client.create(manifest)
        found = await client.ended(name)
        assert found["status"]["phase"] == "Failed" or await client.log(name, container="run") == b"i1\ni2\n"
        assert await client.log(name, container="run") == b"i1\ni2\n"
        assert [status["ready"] for status in found["status"]["initContainerStatuses"]] == [True, True]
        assert conditions(found)["Initialized"] == ("True", "PodCompleted")
        await client.delete(name)


@asynchronous
async def test_a_failed_init_container_fails_the_pod_and_nothing_after_it_starts(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("initfail")
        inits = [container(client, "bad", "exit 4"), container(client, "never", "exit 0")]
        await client.create(pod(client, name, initContainers=inits))
        found = await client.ended(name)
        assert found["status"]["phase"] == "Failed"
        assert terminated(found, "bad")["exitCode"] == 4
        assert found["status"]["initContainerStatuses"][1]["state"]["waiting"]["reason"] == "PodInitializing"
        assert found["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
        assert conditions(found)["Initialized"] == ("False", "ContainersNotInitialized")
        answer = await client.call("GET", f"{client.pods}/{name}/log", container="run")
        assert answer.status == 400
        assert answer.body["message"] == f'container "run" in pod "{name}" is waiting to start: PodInitializing'
        await client.delete(name)


def sidecar(client: Client, name: str, code: int = 0, **fields: Any) -> Json:
    return container(client, name, OBEDIENT.format(code=code), restartPolicy="Always", **fields)


@asynchronous
async def test_sidecars_outlive_the_main_container_and_do_not_decide_the_phase(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("sidecar")
        inits = [sidecar(client, "one", 5), container(client, "init", "exit 0"), sidecar(client, "two", 6)]
        await client.create(pod(client, name, "exit 0", initContainers=inits, grace=20))
        found = await client.ended(name)
        assert found["status"]["phase"] == "Succeeded"
        assert terminated(found, "one")["exitCode"] == 5
        assert terminated(found, "two")["exitCode"] == 6
        stopped = [
            (await client.log(name, container=which, timestamps="true")).decode().splitlines()[-1].split()
            for which in ("two", "one")
        ]
        assert [words[1] for words in stopped] == ["stopped", "stopped"]
        assert stopped[0][0] < stopped[1][0]  # the last one started is the first one stopped
        await client.delete(name)


@asynchronous
async def test_the_phase_turns_terminal_only_after_the_sidecars(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("after")
        slow = container(
            client, "slow", "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done", restartPolicy="Always"
        )
        await client.create(pod(client, name, "exit 9", initContainers=[slow], grace=20))

        def main_ended(found: Json, _: str) -> bool:
            statuses = found["status"].get("containerStatuses") or [{"state": {}}]
            return "terminated" in statuses[0]["state"]

        found = await client.until(name, main_ended)
        assert found["status"]["phase"] == "Running"
        found = await client.ended(name)
        assert found["status"]["phase"] == "Failed"
        assert terminated(found, "slow")["exitCode"] == 0
        assert terminated(found, "run")["exitCode"] == 9
        await client.delete(name)


@asynchronous
async def test_a_sidecar_with_a_startup_probe_holds_back_what_follows(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("probe")
        mount = {"volumeMounts": [{"name": "w", "mountPath": "/w"}], "workingDir": "/w"}
        probe = {"exec": {"command": ["sh", "-c", "test -f ready"]}, "periodSeconds": 1, "failureThreshold": 30}
        if cluster.image != "busybox":
            probe["exec"] = {"command": ["sh", "-c", "test -f /w/ready"]}
        script = "trap 'exit 0' TERM; sleep 2; touch ready; while :; do sleep 0.1; done"
        slow = container(client, "slow", script, restartPolicy="Always", startupProbe=probe, **mount)
        manifest = pod(
            client,
            name,
            "test -f ready",
            initContainers=[slow],
            volumes=[{"name": "w", "emptyDir": {}}],
            container=mount,
        )
        await client.create(manifest)
        assert (await client.ended(name))["status"]["phase"] == "Succeeded"
        await client.delete(name)


@asynchronous
async def test_a_crashing_sidecar_is_restarted(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("crash")
        mount = {"volumeMounts": [{"name": "w", "mountPath": "/w"}], "workingDir": "/w"}
        script = f"test -f again || {{ touch again; echo first; exit 8; }}; {OBEDIENT.format(code=0)}"
        side = container(client, "side", script, restartPolicy="Always", **mount)
        manifest = pod(client, name, "sleep 100", initContainers=[side], volumes=[{"name": "w", "emptyDir": {}}])
        await client.create(manifest)

        def restarted(found: Json, _: str) -> bool:
            status = (found["status"].get("initContainerStatuses") or [{}])[0]
            return status.get("restartCount") == 1 and "running" in status["state"]

        found = await client.until(name, restarted)
        assert found["status"]["initContainerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 8
        assert await client.log(name, container="side", previous="true") == b"first\n"
        await client.delete(name)


@asynchronous
async def test_a_deletion_lets_the_pod_end_and_its_last_event_tells_how(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("delete")
        inits = [sidecar(client, "side", 3)]
        await client.create(pod(client, name, OBEDIENT.format(code=7), initContainers=inits, grace=20))
        await client.running(name)
        await client.logged(name, b"up", container="run")
        gone = asyncio.create_task(client.until(name, lambda _, kind: kind == "DELETED"))
        await asyncio.sleep(0.2)
        answer = await client.call("DELETE", f"{client.pods}/{name}")
        assert answer.status == 200
        assert answer.body["kind"] == "Pod"
        assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 20
        assert answer.body["metadata"]["deletionTimestamp"] > answer.body["metadata"]["creationTimestamp"]
        assert answer.body["metadata"]["generation"] == 2
        last = await gone
        assert last["status"]["phase"] == "Failed"
        assert terminated(last, "run")["exitCode"] == 7
        assert terminated(last, "side")["exitCode"] == 3
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404


@asynchronous
async def test_what_ignores_sigterm_is_killed_when_its_grace_is_over(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("stubborn")
        await client.create(pod(client, name, "trap '' TERM; echo up; while :; do sleep 0.1; done", grace=20))
        await client.running(name)
        await client.logged(name, b"up")
        gone = asyncio.create_task(client.until(name, lambda _, kind: kind == "DELETED"))
        await client.call("DELETE", f"{client.pods}/{name}")
        # A second deletion may only hurry the first. (The API says so; a containerd that is waiting already does not
        # look again, devcluster does.)
        hurried = await client.call("DELETE", f"{client.pods}/{name}", {"gracePeriodSeconds": 1})
        assert hurried.body["metadata"]["deletionGracePeriodSeconds"] == 1
        slower = await client.call("DELETE", f"{client.pods}/{name}", {"gracePeriodSeconds": 15})
        assert slower.body["metadata"]["deletionGracePeriodSeconds"] == 1
        assert terminated(await gone, "run")["exitCode"] == 137


@asynchronous
async def test_a_deletion_without_grace_is_immediate(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("force")
        await client.create(pod(client, name, "sleep 1000"))
        await client.running(name)
        answer = await client.call("DELETE", f"{client.pods}/{name}", {"gracePeriodSeconds": 0})
        assert answer.status == 200
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404
        again = await client.create(pod(client, name, "exit 0"))
        assert (await client.ended(name))["metadata"]["uid"] == again["metadata"]["uid"]
        await client.delete(name)


@asynchronous
async def test_an_ended_pod_is_deleted_at_once(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("ended")
        await client.create(pod(client, name, grace=60))
        await client.ended(name)
        answer = await client.call("DELETE", f"{client.pods}/{name}")
        assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 0
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404


@asynchronous
async def test_a_deletion_of_another_uid_conflicts(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("uid")
        created = await client.create(pod(client, name, nodeName="no-such-node"))
        uid = created["metadata"]["uid"]
        answer = await client.call("DELETE", f"{client.pods}/{name}", {"preconditions": {"uid": "other"}})
        assert (answer.status, answer.body["reason"]) == (409, "Conflict")
        assert answer.body["message"] == (
            f'Operation cannot be fulfilled on Pod "{name}": the UID in the precondition (other) does not match the '
            f"UID in record ({uid}). The object might have been deleted and then recreated"
        )
        wrong = {"preconditions": {"resourceVersion": "1"}}
        answer = await client.call("DELETE", f"{client.pods}/{name}", wrong)
        assert (answer.status, answer.body["reason"]) == (409, "Conflict")
        right = {"preconditions": {"uid": uid}, "gracePeriodSeconds": 0}
        assert (await client.call("DELETE", f"{client.pods}/{name}", right)).status == 200


@asynchronous
async def test_a_finalizer_keeps_the_object(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("final")
        manifest = pod(client, name, "exit 0")
        manifest["metadata"]["finalizers"] = ["conformance.test/keep"]
        await client.create(manifest)
        await client.ended(name)
        await client.delete(name)
        kept = await client.call("GET", f"{client.pods}/{name}")
        assert kept.status == 200
        assert "deletionTimestamp" in kept.body["metadata"]
        again = await client.call("POST", client.pods, manifest)
        assert again.body["message"] == f'object is being deleted: pods "{name}" already exists'
        patch = {"metadata": {"finalizers": None}}
        await client.call("PATCH", f"{client.pods}/{name}", patch, content_type="application/merge-patch+json")
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404


@asynchronous
async def test_the_deadline_ends_the_pod(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("deadline")
        inits = [sidecar(client, "side", 3)]
        manifest = pod(client, name, OBEDIENT.format(code=0), activeDeadlineSeconds=3, initContainers=inits, grace=10)
        await client.create(manifest)
        found = await client.ended(name)
        assert found["status"]["phase"] == "Failed"
        assert found["status"]["reason"] == "DeadlineExceeded"
        assert "longer than the specified deadline" in found["status"]["message"]
        assert terminated(found, "run")["exitCode"] == 0
        assert terminated(found, "side")["exitCode"] == 3
        await client.delete(name)


@asynchronous
async def test_a_declared_end_is_taken_back_by_the_kubelet(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("declared")
        await client.create(pod(client, name, OBEDIENT.format(code=0), grace=10))
        await client.running(name)
        patch = {"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}}
        answer = await client.call(
            "PATCH", f"{client.pods}/{name}/status", patch, content_type="application/merge-patch+json"
        )
        assert answer.body["status"]["phase"] == "Failed"
        found = await client.until(name, lambda p, kind: kind == "MODIFIED" and p["status"]["phase"] == "Running")
        assert "reason" not in found["status"]
        assert "running" in found["status"]["containerStatuses"][0]["state"]
        await client.delete(name)


@asynchronous
async def test_termination_messages_are_kept_up_to_4096_bytes(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("message")
        variables = {"env": [{"name": "MESSAGE", "value": "/dev/termination-log"}]}
        script = 'i=0; while [ $i -lt 500 ]; do echo "line $i ....."; i=$((i+1)); done >$MESSAGE'
        await client.create(pod(client, name, script, container=variables))
        message = terminated(await client.ended(name), "run")["message"]
        assert len(message) == 4096
        assert message.endswith("line 499 .....\n")
        await client.delete(name)


@asynchronous
async def test_the_log_can_be_the_termination_message(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("fallback")
        fields = {"terminationMessagePolicy": "FallbackToLogsOnError"}
        await client.create(pod(client, name, "echo it broke; exit 1", container=fields))
        assert terminated(await client.ended(name), "run")["message"] == "it broke\n"
        await client.delete(name)


@asynchronous
async def test_a_command_that_does_not_exist_is_a_start_error(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("nocommand")
        await client.create(pod(client, name, container={"command": ["no-such-command"]}))
        found = await client.ended(name)
        ended = terminated(found, "run")
        assert (found["status"]["phase"], ended["exitCode"], ended["reason"]) == ("Failed", 128, "StartError")
        assert 'exec: "no-such-command": executable file not found in $PATH' in ended["message"]
        assert ended["startedAt"] == "1970-01-01T00:00:00Z"
        await client.delete(name)


@asynchronous
async def test_a_pod_waits_for_its_secret(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name, secret = unique("wait"), unique("late")
        source = {"valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}
        await client.create(pod(client, name, 'echo "$K"', container={"env": [{"name": "K", **source}]}))

        def refused(found: Json, _: str) -> bool:
            statuses = found["status"].get("containerStatuses") or [{"state": {}}]
            return bool(statuses[0]["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError")

        found = await client.until(name, refused)
        assert found["status"]["phase"] == "Pending"
        waiting = found["status"]["containerStatuses"][0]["state"]["waiting"]
        assert waiting["message"] == f'secret "{secret}" not found'
        answer = await client.call("GET", f"{client.pods}/{name}/log")
        assert answer.body["message"] == (
            f'container "run" in pod "{name}" is waiting to start: CreateContainerConfigError'
        )
        body = {"metadata": {"name": secret}, "stringData": {"other": "x"}}
        await client.call("POST", f"{client.namespaced}/secrets", body)
        wanted = f"couldn't find key k in Secret {cluster.namespace}/{secret}"
        await client.until(
            name,
            lambda p, _: p["status"]["containerStatuses"][0]["state"].get("waiting", {}).get("message") == wanted,
        )
        patch = {"stringData": {"k": "found"}}
        await client.call(
            "PATCH", f"{client.namespaced}/secrets/{secret}", patch, content_type="application/merge-patch+json"
        )
        assert (await client.ended(name))["status"]["phase"] == "Succeeded"
        assert await client.log(name) == b"found\n"
        await client.delete(name)


@asynchronous
async def test_variables_come_from_values_fields_secrets_and_config_maps(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("env")
        await client.call(
            "POST", f"{client.namespaced}/configmaps", {"metadata": {"name": name}, "data": {"a": "1", "b": "2"}}
        )
        variables = [
            {"name": "PLAIN", "value": "x"},
            {"name": "JOINED", "value": "$(PLAIN)-$(UNKNOWN)-$$(PLAIN)"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['l']"}}},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": name, "key": "a"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": True}}},
            {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ]
        fields = {
            "env": variables,
            "envFrom": [{"prefix": "C_", "configMapRef": {"name": name}}],
            "resources": {"limits": {"memory": "128Mi"}},
            "args": ["$(NAME)"],
            "command": ["sh", "-c", 'echo "$PLAIN|$JOINED|$NAME|$LABEL|$KEY|${NONE-unset}|$MEMORY|$C_a$C_b|$0"'],
        }
        await client.create(pod(client, name, labels={"l": "v"}, container=fields))
        await client.ended(name)
        expected = f"x|x-$(UNKNOWN)-$(PLAIN)|{name}|v|1|unset|128|12|{name}\n"
        assert (await client.log(name)).decode() == expected
        await client.delete(name)


@asynchronous
async def test_files_show_annotations_and_config_byte_for_byte(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("files")
        plan = 'line "one"\nü\ttwo\\ ' + "x" * 150_000
        body = {"metadata": {"name": name}, "data": {"k": "AP8B"}}
        await client.call("POST", f"{client.namespaced}/secrets", body)
        manifest = pod(
            client,
            name,
            "cat plan; echo; wc -c <secret | tr -d ' '; cat labels; echo; cat uid",
            labels={"l": "v", "a.b/c": "1"},
            volumes=[
                {
                    "name": "v",
                    "projected": {
                        "sources": [
                            {
                                "downwardAPI": {
                                    "items": [
                                        {"path": "plan", "fieldRef": {"fieldPath": "metadata.annotations['plan']"}},
                                        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                                        {"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}},
                                    ]
                                }
                            },
                            {"secret": {"name": name, "items": [{"key": "k", "path": "secret"}]}},
                        ]
                    },
                }
            ],
            container={"volumeMounts": [{"name": "v", "mountPath": "/v"}], "workingDir": "/v"},
        )
        manifest["metadata"]["annotations"] = {"plan": plan}
        created = await client.create(manifest)
        await client.ended(name)
        labels = 'a.b/c="1"\nl="v"'
        expected = f"{plan}\n3\n{labels}\n{created['metadata']['uid']}"
        assert (await client.log(name)).decode() == expected
        await client.delete(name)


@asynchronous
async def test_a_projected_token_proves_its_pod_until_the_pod_is_gone(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("token")
        source = {"serviceAccountToken": {"audience": "conformance", "expirationSeconds": 600, "path": "token"}}
        manifest = pod(
            client,
            name,
            "cat token; echo; sleep 100",
            volumes=[{"name": "t", "projected": {"sources": [source]}}],
            container={"volumeMounts": [{"name": "t", "mountPath": "/t"}], "workingDir": "/t"},
        )
        created = await client.create(manifest)
        await client.running(name)
        text = (await client.logged(name, b"\n")).decode().strip()

        async def review(token: str, *audiences: str) -> Json:
            path = "/apis/authentication.k8s.io/v1/tokenreviews"
            body = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": list(audiences)},
            }
            answer = await client.call("POST", path, body)
            assert answer.status == 201
            return dict(answer.body["status"])

        status = await review(text, "conformance", "other")
        assert status["authenticated"] is True
        assert status["audiences"] == ["conformance"]
        user = status["user"]
        assert user["username"] == f"system:serviceaccount:{cluster.namespace}:default"
        assert user["uid"]
        assert {"system:serviceaccounts", f"system:serviceaccounts:{cluster.namespace}"} <= set(user["groups"])
        assert user["extra"]["authentication.kubernetes.io/pod-name"] == [name]
        assert user["extra"]["authentication.kubernetes.io/pod-uid"] == [created["metadata"]["uid"]]
        for token, audience in ((text, "other"), (text, ""), ("nonsense", "conformance")):
            refused = await review(token, *([audience] if audience else []))
            assert not refused.get("authenticated")
            assert refused["error"]
        await client.delete(name)
        async with asyncio.timeout(20):
            while (await review(text, "conformance")).get("authenticated"):  # noqa: ASYNC110 - the API has no event for it
                await asyncio.sleep(0.2)


@asynchronous
async def test_events_tell_what_happened_to_a_pod(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("told")
        await client.create(pod(client, name))
        await client.ended(name)
        selector = f"involvedObject.name={name},involvedObject.kind=Pod"
        async with asyncio.timeout(20):
            while True:
                listed = (await client.call("GET", f"{client.namespaced}/events", fieldSelector=selector)).body["items"]
                reasons = {event["reason"] for event in listed}
                if {"Scheduled", "Pulled", "Created", "Started"} <= reasons:
                    break
                await asyncio.sleep(0.2)
        started = next(event for event in listed if event["reason"] == "Started")
        assert started["type"] == "Normal"
        assert started["involvedObject"]["fieldPath"] == "spec.containers{run}"
        assert "run" in started["message"]
        await client.delete(name)


@asynchronous
async def test_a_pod_that_fits_no_node_says_so(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("nowhere")
        await client.create(pod(client, name, nodeSelector={"conformance.test/no-such-node": "yes"}))

        def told(found: Json, _: str) -> bool:
            return any(c["type"] == "PodScheduled" for c in found["status"].get("conditions", ()))

        found = await client.until(name, told)
        assert found["status"]["phase"] == "Pending"
        assert conditions(found)["PodScheduled"] == ("False", "Unschedulable")
        answer = await client.call("GET", f"{client.pods}/{name}/log")
        assert (answer.status, answer.raw) == (204, b"")
        await client.delete(name)
