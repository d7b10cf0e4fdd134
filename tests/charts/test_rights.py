"""Who may do what in the cluster: the roles as objects, and as the cluster itself sums them up."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.charts.cluster import applied, kubectl, namespace_values, require_cluster
from tests.charts.helm import Objects, render

pytestmark = pytest.mark.cluster

RBAC: Final = {"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
# What Kubernetes lets everybody with an account do: ask about themselves.
EVERYBODY: Final = {
    "selfsubjectaccessreviews.authorization.k8s.io": {"create"},
    "selfsubjectreviews.authentication.k8s.io": {"create"},
    "selfsubjectrulesreviews.authorization.k8s.io": {"create"},
}
WORKER: Final = {"pods": {"create", "delete", "get", "list", "watch"}, "pods/log": {"get"}}
GATEWAY: Final = {"pods": {"get"}}
REVIEWS: Final = {"tokenreviews.authentication.k8s.io": {"create"}}
DEBUG: Final[dict[str, Any]] = {
    "policy": {"allow_debug": True},
    "debug": {"subjects": [{"kind": "User", "name": "ada"}]},
}


def granted(role: dict[str, Any]) -> dict[str, set[str]]:
    """Resource (with its group) → verbs."""
    rights: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                rights.setdefault(resource + (f".{group}" if group else ""), set()).update(rule["verbs"])
    return rights


def test_there_are_these_roles_and_no_others() -> None:
    objects = render()
    roles = {item["metadata"]["name"]: granted(item) for item in objects.of("Role")}
    assert roles == {"dynapod-worker": WORKER, "dynapod-gateway": GATEWAY}
    assert {item["metadata"]["namespace"] for item in objects.of("Role")} == {"dynapod-jobs"}
    assert [granted(item) for item in objects.of("ClusterRole")] == [REVIEWS]


def test_no_role_is_bound_to_the_jobs_own_account() -> None:
    bound = {
        (subject["namespace"], subject["name"])
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for item in render().of(kind)
        for subject in item["subjects"]
    }
    assert bound == {("dynapod-system", "dynapod-worker"), ("dynapod-system", "dynapod-gateway")}


def test_a_shell_in_jobs_is_for_the_named_subjects_where_policy_allows_it() -> None:
    objects = render(DEBUG)
    assert granted(objects.one("Role", "dynapod-debug")) == {"pods": {"get"}, "pods/exec": {"create", "get"}}
    assert objects.one("RoleBinding", "dynapod-debug")["subjects"] == DEBUG["debug"]["subjects"]
    allowed_to_nobody = render({"policy": {"allow_debug": True}})
    assert "dynapod-debug" not in {item["metadata"]["name"] for item in allowed_to_nobody.of("Role")}


@dataclass(frozen=True)
class Installed:
    """The roles, in the real cluster."""

    system: str
    jobs: str

    def rights(self, account: str, namespace: str) -> dict[str, set[str]]:
        """What an account may do in a namespace, by `kubectl auth can-i --list`."""
        return may(f"--as=system:serviceaccount:{account}", namespace)


def may(identity: str, namespace: str) -> dict[str, set[str]]:
    table = kubectl("auth", "can-i", "--list", identity, "--namespace", namespace).splitlines()
    # Columns: resources, URLs (what everybody may: /healthz, /api, …), names, verbs.
    starts = [table[0].index(title) for title in ("Resources", "Non-Resource URLs", "Resource Names", "Verbs")]
    rights: dict[str, set[str]] = {}
    for line in table[1:]:
        resource, urls, names, verbs = (
            line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)
        )
        if resource:
            assert (urls, names) == ("[]", "[]"), line
            rights.setdefault(resource, set()).update(re.findall(r"[a-z*]+", verbs))
    return rights


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    require_cluster()
    values = namespace_values()
    objects = Objects(tuple(item for item in render(values | DEBUG) if item["kind"] in RBAC))
    with applied(objects):
        yield Installed(values["namespaces"]["system"]["name"], values["namespaces"]["jobs"]["name"])


def test_a_worker_may_use_pods_and_read_logs_in_the_jobs_namespace_and_nothing_else(installed: Installed) -> None:
    worker = f"{installed.system}:dynapod-worker"
    assert installed.rights(worker, installed.jobs) == WORKER | EVERYBODY
    for namespace in (installed.system, "default", "kube-system"):
        assert installed.rights(worker, namespace) == EVERYBODY


def test_a_gateway_may_review_tokens_and_get_pods_of_jobs_and_nothing_else(installed: Installed) -> None:
    gateway = f"{installed.system}:dynapod-gateway"
    assert installed.rights(gateway, installed.jobs) == GATEWAY | REVIEWS | EVERYBODY
    for namespace in (installed.system, "default", "kube-system"):
        assert installed.rights(gateway, namespace) == REVIEWS | EVERYBODY


def test_a_job_may_do_nothing_anywhere(installed: Installed) -> None:
    for account in (f"{installed.jobs}:dynapod-job", f"{installed.jobs}:default"):
        for namespace in (installed.jobs, installed.system, "default", "kube-system"):
            assert installed.rights(account, namespace) == EVERYBODY


@pytest.mark.parametrize(
    "question",
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods/exec"),
        ("create", "pods/attach"),
        ("create", "pods/portforward"),
        ("patch", "pods"),
        ("update", "pods"),
        ("deletecollection", "pods"),
        ("create", "pods/eviction"),
        ("create", "serviceaccounts/token"),
        ("get", "configmaps"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("bind", "roles.rbac.authorization.k8s.io"),
        ("list", "nodes"),
    ],
)
def test_the_cluster_refuses_a_worker_what_would_be_worth_stealing(
    installed: Installed, question: tuple[str, str]
) -> None:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{installed.system}:dynapod-worker",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": attributes(*question, namespace=installed.jobs),
        },
    }
    answer = json.loads(kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(review)))
    assert answer["status"]["allowed"] is False


def attributes(verb: str, resource: str, *, namespace: str) -> dict[str, str]:
    name, _, group = resource.partition(".")
    resource, _, subresource = name.partition("/")
    return {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace}


def test_who_may_open_a_shell_may_do_nothing_more(installed: Installed) -> None:
    assert may("--as=ada", installed.jobs) == {"pods": {"get"}, "pods/exec": {"create", "get"}} | EVERYBODY
    assert may("--as=ada", installed.system) == EVERYBODY
