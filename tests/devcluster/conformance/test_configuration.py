"""What a container is given: variables, files, secrets, tokens."""

import asyncio

from tests.devcluster.conformance.api_client import Cluster, Json, asynchronous, pod, terminated, unique


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
async def test_variables_tell_a_container_about_its_pod(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("about")
        paths = {
            "NAME": "metadata.name",
            "PLACE": "metadata.namespace",
            "ID": "metadata.uid",
            "NOTE": "metadata.annotations['a.b/note']",
            "NONE": "metadata.annotations['none']",
            "NODE": "spec.nodeName",
            "ACCOUNT": "spec.serviceAccountName",
            "POD": "status.podIP",
            "HOST": "status.hostIP",
        }
        variables = [{"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in paths.items()]
        script = 'echo "$NAME|$PLACE|$ID|$NOTE|${NONE-unset}|$NODE|$ACCOUNT|$POD|$HOST"'
        manifest = pod(client, name, script, container={"env": variables})
        manifest["metadata"]["annotations"] = {"a.b/note": "hello"}
        created = await client.create(manifest)
        found = await client.ended(name)
        addresses = f"{found['status']['podIP']}|{found['status']['hostIP']}"
        about = f"{name}|{cluster.namespace}|{created['metadata']['uid']}|hello||{found['spec']['nodeName']}|default"
        assert (await client.log(name)).decode() == f"{about}|{addresses}\n"
        await client.delete(name)


@asynchronous
async def test_the_files_of_a_running_pod_follow_its_annotations(cluster: Cluster) -> None:
    async with cluster.client() as client:
        name = unique("follows")
        items = [{"path": "note", "fieldRef": {"fieldPath": "metadata.annotations['note']"}}]
        manifest = pod(
            client,
            name,
            "until grep -q new note; do sleep 0.2; done",
            volumes=[{"name": "v", "downwardAPI": {"items": items}}],
            container={"volumeMounts": [{"name": "v", "mountPath": "/v"}], "workingDir": "/v"},
        )
        manifest["metadata"]["annotations"] = {"note": "old"}
        await client.create(manifest)
        await client.running(name)
        patch = {"metadata": {"annotations": {"note": "new"}}}
        await client.call("PATCH", f"{client.pods}/{name}", patch, content_type="application/merge-patch+json")
        found = await client.until(name, lambda p, _: p["status"].get("phase") == "Succeeded", seconds=100)
        assert terminated(found, "run")["exitCode"] == 0
        await client.delete(name)
