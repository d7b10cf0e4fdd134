"""Creating, changing and refusing objects."""

import copy
import ssl
from typing import Any

import pytest

from tests.devcluster.conformance.api_client import Client, Cluster, Json, asynchronous, pod, unique

UNSCHEDULABLE: dict[str, Any] = {"nodeSelector": {"conformance.test/no-such-node": "yes"}}


def status_of(body: Json) -> tuple[Any, ...]:
    return body["kind"], body["apiVersion"], body["status"], body["reason"], body["code"]


@asynchronous
async def test_a_created_pod_has_identity_defaults_and_a_pending_status(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("create")
        manifest = pod(client, name, labels={"a": "b"}, grace=-1, **UNSCHEDULABLE)
        manifest["metadata"] |= {"uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7}
        created = await client.create(manifest)
        metadata = created["metadata"]
        assert created["kind"] == "Pod"
        assert created["apiVersion"] == "v1"
        assert metadata["namespace"] == cluster.namespace
        assert metadata["uid"] not in ("", "mine")
        assert len(metadata["uid"]) == 36
        assert metadata["creationTimestamp"] > "2020"
        assert int(metadata["resourceVersion"]) > 0
        assert metadata["generation"] == 1
        assert created["status"]["phase"] == "Pending"
        assert created["status"]["qosClass"] == "BestEffort"
        spec, run = created["spec"], created["spec"]["containers"][0]
        assert spec["serviceAccountName"] == "default"
        assert spec["terminationGracePeriodSeconds"] == 1
        assert spec["dnsPolicy"] == "ClusterFirst"
        assert spec["schedulerName"] == "default-scheduler"
        assert run["terminationMessagePath"] == "/dev/termination-log"
        assert run["terminationMessagePolicy"] == "File"
        got = await client.call("GET", f"{client.pods}/{name}")
        assert got.status == 200
        assert got.body["metadata"]["uid"] == metadata["uid"]
        await client.delete(name)


@asynchronous
async def test_a_second_pod_of_the_same_name_is_refused(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("twice")
        await client.create(pod(client, name, **UNSCHEDULABLE))
        answer = await client.call("POST", client.pods, pod(client, name))
        assert answer.status == 409
        assert status_of(answer.body) == ("Status", "v1", "Failure", "AlreadyExists", 409)
        assert answer.body["message"] == f'pods "{name}" already exists'
        assert answer.body["details"] == {"name": name, "kind": "pods"}
        await client.delete(name)


@asynchronous
async def test_a_missing_pod_is_not_found(cluster: Cluster) -> None:
    async with cluster.client() as client:
        for method in ("GET", "DELETE"):
            answer = await client.call(method, f"{client.pods}/no-such-pod")
            assert answer.status == 404
            assert status_of(answer.body) == ("Status", "v1", "Failure", "NotFound", 404)
            assert answer.body["message"] == 'pods "no-such-pod" not found'
            assert answer.body["details"] == {"name": "no-such-pod", "kind": "pods"}


@asynchronous
async def test_a_pod_in_a_missing_namespace_is_not_found(cluster: Cluster) -> None:
    async with cluster.client() as client:
        answer = await client.call("POST", "/api/v1/namespaces/no-such-place/pods", pod(client, "a"))
        assert answer.status == 404
        assert answer.body["message"] == 'namespaces "no-such-place" not found'
        assert answer.body["details"] == {"name": "no-such-place", "kind": "namespaces"}


@asynchronous
async def test_the_namespace_of_the_object_must_be_that_of_the_request(cluster: Cluster) -> None:
    async with cluster.client() as client:
        manifest = pod(client, "a")
        manifest["metadata"]["namespace"] = "elsewhere"
        answer = await client.call("POST", client.pods, manifest)
        assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
        assert "the namespace of the provided object does not match" in answer.body["message"]


@asynchronous
async def test_an_unknown_service_account_is_forbidden(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("account")
        answer = await client.call("POST", client.pods, pod(client, name, serviceAccountName="nobody"))
        assert (answer.status, answer.body["reason"]) == (403, "Forbidden")
        place = f"{cluster.namespace}/nobody"
        why = f'error looking up service account {place}: serviceaccount "nobody" not found'
        assert answer.body["message"] == f'pods "{name}" is forbidden: {why}'


@asynchronous
async def test_generate_name_makes_names(cluster: Cluster) -> None:
    async with cluster.client() as client:
        manifest = pod(client, "", **UNSCHEDULABLE)
        manifest["metadata"] = {"generateName": "gen-"}
        names = {(await client.create(manifest))["metadata"]["name"] for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith("gen-") and len(name) == 9 for name in names)
        for name in names:
            await client.delete(name)


def _spoiled(manifest: Json, path: str, value: object) -> Json:
    spoiled = copy.deepcopy(manifest)
    *way, last = path.split(".")
    target: Any = spoiled
    for step in way:
        target = target[int(step)] if step.isdigit() else target[step]
    if value is None:
        del target[last]
    else:
        target[int(last) if last.isdigit() else last] = value
    return spoiled


INVALID = [
    ("metadata.name", "Upper", "metadata.name", "FieldValueInvalid"),
    ("metadata.name", "a" * 254, "metadata.name", "FieldValueInvalid"),
    ("metadata.name", None, "metadata.name", "FieldValueRequired"),
    ("metadata.labels", {"a": "b c"}, "metadata.labels", "FieldValueInvalid"),
    ("metadata.labels", {"/a": "b"}, "metadata.labels", "FieldValueInvalid"),
    ("metadata.annotations", {"a": "x" * 262144}, "metadata.annotations", "FieldValueTooLong"),
    ("spec.containers", [], "spec.containers", "FieldValueRequired"),
    ("spec.containers.0.name", None, "spec.containers[0].name", "FieldValueRequired"),
    ("spec.containers.0.name", "a.b", "spec.containers[0].name", "FieldValueInvalid"),
    ("spec.containers.0.image", None, "spec.containers[0].image", "FieldValueRequired"),
    ("spec.initContainers", [{"name": "run", "image": "i"}], "spec.initContainers[0].name", "FieldValueDuplicate"),
    ("spec.volumes", [{"name": "v"}, {"name": "v"}], "spec.volumes[1].name", "FieldValueDuplicate"),
    (
        "spec.containers.0.volumeMounts",
        [{"name": "v", "mountPath": "/v"}],
        "spec.containers[0].volumeMounts[0].name",
        "FieldValueNotFound",
    ),
    ("spec.containers.0.env", [{"value": "x"}], "spec.containers[0].env[0].name", "FieldValueRequired"),
    ("spec.restartPolicy", "Sometimes", "spec.restartPolicy", "FieldValueNotSupported"),
    ("spec.activeDeadlineSeconds", 0, "spec.activeDeadlineSeconds", "FieldValueInvalid"),
    (
        "spec.containers.0.resources",
        {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
        "spec.containers[0].resources.requests",
        "FieldValueInvalid",
    ),
    (
        "spec.initContainers",
        [{"name": "init", "image": "i", "startupProbe": {"tcpSocket": {"port": 1}}}],
        "spec.initContainers[0].startupProbe",
        "FieldValueForbidden",
    ),
    ("spec.volumes", [{"name": "v", "secret": {}}], "spec.volumes[0].secret.secretName", "FieldValueRequired"),
    ("spec.hostAliases", [{"ip": "nowhere", "hostnames": ["db"]}], "spec.hostAliases[0].ip", "FieldValueInvalid"),
    (
        "spec.hostAliases",
        [{"ip": "127.0.0.1", "hostnames": ["d b"]}],
        "spec.hostAliases[0].hostnames[0]",
        "FieldValueInvalid",
    ),
    (
        "spec.volumes",
        [{"name": "v", "emptyDir": {"sizeLimit": "-1"}}],
        "spec.volumes[0].emptyDir.sizeLimit",
        "FieldValueForbidden",
    ),
    (
        "spec.volumes",
        [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]}}],
        "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds",
        "FieldValueInvalid",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "field", "reason"), INVALID, ids=[f"{i}-{c[2]}" for i, c in enumerate(INVALID)]
)
@asynchronous
async def test_an_invalid_pod_is_refused_with_its_field(
    cluster: Cluster, path: str, value: object, field: str, reason: str
) -> None:
    async with cluster.client() as client:
        name = unique("invalid")
        answer = await client.call("POST", client.pods, _spoiled(pod(client, name), path, value))
        assert answer.status == 422, answer.body
        assert answer.body["reason"] == "Invalid"
        assert answer.body["details"]["kind"] == "Pod"
        causes = answer.body["details"]["causes"]
        assert (field, reason) in [(cause["field"], cause["reason"]) for cause in causes], causes
        text = next(cause["message"] for cause in causes if cause["field"] == field)
        assert f"{field}: {text}" in answer.body["message"]


@asynchronous
async def test_annotations_may_be_as_large_as_the_limit(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("large")
        manifest = pod(client, name, **UNSCHEDULABLE)
        manifest["metadata"]["annotations"] = {"plan": "x" * (262144 - 4)}
        created = await client.create(manifest)
        assert len(created["metadata"]["annotations"]["plan"]) == 262140
        await client.delete(name)


@asynchronous
async def test_dry_run_answers_and_stores_nothing(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("dry")
        created = await client.create(pod(client, name), dryRun="All")
        assert created["metadata"]["uid"]
        assert (await client.call("GET", f"{client.pods}/{name}")).status == 404
        answer = await client.call("POST", client.pods, pod(client, "Upper"), dryRun="All")
        assert answer.status == 422


@asynchronous
async def test_strict_validation_refuses_unknown_fields_and_the_default_drops_them(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("strict")
        manifest = pod(client, name, **UNSCHEDULABLE)
        manifest["spec"]["containers"][0]["comand"] = ["x"]
        answer = await client.call("POST", client.pods, manifest, fieldValidation="Strict")
        assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
        assert 'strict decoding error: unknown field "spec.containers[0].comand"' in answer.body["message"]
        created = await client.create(manifest)
        assert "comand" not in created["spec"]["containers"][0]
        await client.delete(name)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"spec": "x"}', b'{"apiVersion": "v2", "kind": "Pod"}'])
@asynchronous
async def test_a_body_that_is_no_pod_is_a_bad_request(cluster: Cluster, body: bytes) -> None:
    async with cluster.client() as client:
        answer = await client.call("POST", client.pods, body)
        assert (answer.status, answer.body["reason"]) == (400, "BadRequest")


@asynchronous
async def test_a_merge_patch_changes_labels_and_the_version(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("patch")
        created = await client.create(pod(client, name, labels={"a": "1", "b": "2"}, **UNSCHEDULABLE))
        patch = {"metadata": {"labels": {"a": "9", "b": None}, "annotations": {"x": "y"}}}
        answer = await client.call("PATCH", f"{client.pods}/{name}", patch, content_type="application/merge-patch+json")
        assert answer.status == 200
        assert answer.body["metadata"]["labels"] == {"a": "9"}
        assert answer.body["metadata"]["annotations"]["x"] == "y"
        assert answer.body["metadata"]["uid"] == created["metadata"]["uid"]
        assert int(answer.body["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])
        versions = [answer.body["metadata"]["resourceVersion"]]
        for _ in range(5):  # a real scheduler may write the pod's condition in between, once or twice
            again = await client.call(
                "PATCH", f"{client.pods}/{name}", patch, content_type="application/strategic-merge-patch+json"
            )
            versions.append(again.body["metadata"]["resourceVersion"])
        assert versions[-1] == versions[-2]
        operations = [{"op": "replace", "path": "/metadata/labels/a", "value": "7"}]
        third = await client.call(
            "PATCH", f"{client.pods}/{name}", operations, content_type="application/json-patch+json"
        )
        assert third.body["metadata"]["labels"] == {"a": "7"}
        await client.delete(name)


@asynchronous
async def test_a_patch_of_an_older_state_conflicts(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("conflict")
        await client.create(pod(client, name, **UNSCHEDULABLE))
        patch = {"metadata": {"resourceVersion": "1", "labels": {"a": "1"}}}
        answer = await client.call("PATCH", f"{client.pods}/{name}", patch, content_type="application/merge-patch+json")
        assert (answer.status, answer.body["reason"]) == (409, "Conflict")
        assert answer.body["message"] == (
            f'Operation cannot be fulfilled on pods "{name}": the object has been modified; please apply your changes '
            "to the latest version and try again"
        )
        await client.delete(name)


@asynchronous
async def test_the_command_of_a_pod_is_immutable(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("frozen")
        await client.create(pod(client, name, **UNSCHEDULABLE))
        patch = {"spec": {"containers": [{"name": "run", "command": ["true"]}]}}
        answer = await client.call(
            "PATCH", f"{client.pods}/{name}", patch, content_type="application/strategic-merge-patch+json"
        )
        assert (answer.status, answer.body["reason"]) == (422, "Invalid")
        assert "spec: Forbidden: pod updates may not change fields other than" in answer.body["message"]
        await client.delete(name)


@asynchronous
async def test_the_status_subresource_changes_the_status_only(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("status")
        await client.create(pod(client, name, **UNSCHEDULABLE))
        patch = {
            "metadata": {"labels": {"ignored": "no"}},
            "status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
        }
        answer = await client.call(
            "PATCH", f"{client.pods}/{name}/status", patch, content_type="application/merge-patch+json"
        )
        assert answer.status == 200
        assert answer.body["status"]["phase"] == "Failed"
        assert answer.body["status"]["reason"] == "Evicted"
        assert answer.body["spec"]["nodeSelector"] == UNSCHEDULABLE["nodeSelector"]
        await client.delete(name)


@asynchronous
async def test_secrets_and_config_maps_can_be_created_listed_and_deleted(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("config")
        path = f"{client.namespaced}/secrets"
        body = {"metadata": {"name": name, "labels": {"s": name}}, "stringData": {"k": "v"}, "data": {"b": "AAE="}}
        answer = await client.call("POST", path, body)
        assert answer.status == 201
        assert answer.body["data"] == {"k": "dg==", "b": "AAE="}
        assert answer.body["type"] == "Opaque"
        assert "stringData" not in answer.body
        listed = await client.call("GET", path, labelSelector=f"s={name}")
        assert [item["metadata"]["name"] for item in listed.body["items"]] == [name]
        gone = await client.call("DELETE", f"{path}/{name}")
        assert (gone.status, gone.body["status"]) == (200, "Success")
        assert gone.body["details"]["kind"] == "secrets"
        path = f"{client.namespaced}/configmaps"
        assert (await client.call("POST", path, {"metadata": {"name": name}, "data": {"k": "v"}})).status == 201
        assert (await client.call("GET", f"{path}/{name}")).body["data"] == {"k": "v"}
        assert (await client.call("DELETE", f"{path}/{name}")).status == 200
        bad = await client.call("POST", path, {"metadata": {"name": name}, "data": {"a b": "v"}})
        assert bad.status == 422


@asynchronous
async def test_a_wrong_token_is_unauthorized(cluster: Cluster) -> None:
    stranger = Cluster(cluster.url, cluster.namespace, {"Authorization": "Bearer wrong"}, _anonymous(cluster))
    async with stranger.client() as client:
        answer = await client.call("GET", client.pods)
        assert status_of(answer.body) == ("Status", "v1", "Failure", "Unauthorized", 401)
        assert answer.status == 401


def _anonymous(cluster: Cluster) -> ssl.SSLContext | bool:
    # The real cluster's client certificate would be believed before the token is looked at.
    if not isinstance(cluster.tls, ssl.SSLContext):
        return True
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return tls


@asynchronous
async def test_the_api_says_what_it_is(cluster: Cluster) -> None:
    async with cluster.client() as client:
        assert (await client.call("GET", "/version")).body["minor"] == "34"
        assert (await client.call("GET", "/healthz")).raw == b"ok"
        assert (await client.call("GET", "/readyz")).raw == b"ok"
        assert (await client.call("GET", "/api")).body["versions"] == ["v1"]
        groups = (await client.call("GET", "/apis")).body["groups"]
        assert "authentication.k8s.io" in [group["name"] for group in groups]
        resources = (await client.call("GET", "/api/v1")).body["resources"]
        assert {"pods", "pods/log", "pods/status", "secrets"} <= {resource["name"] for resource in resources}


@asynchronous
async def test_a_namespace_can_be_created_once(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = cluster.namespace
        got = await client.call("GET", f"/api/v1/namespaces/{name}")
        assert got.body["status"]["phase"] == "Active"
        again = await client.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        assert (again.status, again.body["message"]) == (409, f'namespaces "{name}" already exists')
        listed = await client.call("GET", "/api/v1/namespaces")
        assert name in [item["metadata"]["name"] for item in listed.body["items"]]


async def _names(client: Client, **params: str) -> list[str]:
    listed = await client.call("GET", client.pods, **params)
    assert listed.status == 200, listed.body
    return [item["metadata"]["name"] for item in listed.body["items"]]


@asynchronous
async def test_deletecollection_deletes_what_is_selected(cluster: Cluster) -> None:
    async with cluster.client() as client:
        group = unique("group")
        for i in range(3):
            labels = {"group": group, "odd": str(i % 2)}
            await client.create(pod(client, f"{group}-{i}", labels=labels, **UNSCHEDULABLE))
        answer = await client.call("DELETE", client.pods, labelSelector=f"group={group},odd=0")
        assert answer.status == 200
        assert await _names(client, labelSelector=f"group={group}") == [f"{group}-1"]
        await client.delete(f"{group}-1")
