from typing import Any

import pytest
from hypothesis import given

from runner_spec.admission import Admission, admit, is_below
from runner_spec.description import parse_description
from runner_spec.policy import DEFAULT_POLICY, Policy, local_policy, parse_policy
from runner_spec.problem import InvalidDescription, InvalidPolicy, Problem
from tests.runner_spec.descriptions import descriptions, least, whole

OPEN = {"secrets": {"*": ["*"]}}


def admitted(data: dict[str, Any], **policy: Any) -> Admission:
    return admit(parse_description(data), parse_policy(policy))


def refusals(data: dict[str, Any], **policy: Any) -> tuple[Problem, ...]:
    with pytest.raises(InvalidDescription) as caught:
        admitted(data, **policy)
    return caught.value.problems


def decision(admission: Admission, path: str) -> tuple[str, str, str]:
    (found,) = [decision for decision in admission.decisions if decision.path == path]
    return found.value, found.source, found.rule


def test_what_the_description_leaves_out_comes_from_the_policy() -> None:
    admission = admitted(least(), default_timeout="10m")
    assert admission.job.timeout == 600
    assert decision(admission, "timeout") == ("10m", "policy default", "policy.default_timeout")
    assert decision(admission, "resources.memory") == ("1Gi", "policy default", "policy.default_resources.memory")
    assert str(admission.job.resources["memory"]) == "1Gi"


def test_what_the_description_says_is_taken_within_the_caps() -> None:
    admission = admitted(least(timeout="5m", resources={"cpu": "8000m"}))
    assert decision(admission, "timeout") == ("5m", "description", "policy.max_timeout")
    assert decision(admission, "resources.cpu") == ("8000m", "description", "policy.max_resources.cpu")


def test_every_refusal_is_reported_at_once_with_its_rule() -> None:
    found = refusals(
        whole(timeout="7h", resources={"memory": "1Ti"}),
        images=["registry.example/*"],
        source_schemes=["ssh"],
        max_services=0,
        max_service_resources={"memory": "512Mi", "cpu": "500m", "ephemeral-storage": "1Gi"},
    )
    rules = {problem.path: problem.message for problem in found}
    assert rules == {
        "image": "policy.images does not allow this image",
        "services[0].image": "policy.images does not allow this image",
        "source.git": "policy.source_schemes does not allow https",
        "secrets.NPM_TOKEN": "policy.secrets does not allow this key of this Secret",
        "source.credentials.secret": "policy.secrets does not allow the whole of this Secret",
        "services": "policy.max_services allows 0",
        "timeout": "policy.max_timeout allows 6h",
        "resources.memory": "policy.max_resources.memory allows 16Gi",
    }
    assert all(problem.remedy for problem in found)


def test_caps_can_clamp_instead() -> None:
    admission = admitted(least(timeout="7h", resources={"memory": "1Ti"}), over_cap="clamp")
    assert decision(admission, "timeout") == ("6h", "policy cap", "policy.max_timeout")
    assert decision(admission, "resources.memory") == ("16Gi", "policy cap", "policy.max_resources.memory")
    assert (admission.job.timeout, str(admission.job.resources["memory"])) == (21600, "16Gi")


@pytest.mark.parametrize(
    ("policy", "who"),
    [
        ({}, "uid 1000 (auto: root in a user namespace where the worker finds that the cluster offers them)"),
        ({"user_namespaces": False}, "uid 1000"),
        ({"user_namespaces": True}, "root in a user namespace: nobody outside"),
        (
            {"shim_delivery": "image-volume"},
            "uid 1000 (auto: policy.shim_delivery is image-volume, which excludes user namespaces)",
        ),
    ],
)
def test_it_is_said_who_the_job_runs_as_and_why(policy: dict[str, Any], who: str) -> None:
    assert decision(admitted(least(), **policy), "user") == (who, "policy", "policy.user_namespaces")


def test_keeping_needs_the_policys_leave() -> None:
    data = least(keep="on-failure 1h")
    (problem,) = refusals(data)
    assert (problem.path, problem.message) == ("keep", "policy.max_keep allows no container to be kept")
    assert refusals(data, over_cap="clamp")[0].path == "keep"
    (problem,) = refusals(data, max_keep="30m")
    assert (problem.path, problem.message) == ("keep", "policy.max_keep allows 30m")
    admission = admitted(data, max_keep="30m", over_cap="clamp")
    assert admission.job.keep == 1800
    assert decision(admission, "keep") == ("30m", "policy cap", "policy.max_keep")
    assert admitted(data, max_keep=3600).job.keep == 3600
    assert admitted(least(), max_keep="1h").job.keep == 0


def test_a_services_time_to_start_has_a_cap() -> None:
    data = least(services=[{"name": "db", "image": "a", "ready": {"tcp": 1, "timeout": "7h"}}])
    (problem,) = refusals(data)
    assert (problem.path, problem.message) == ("services[0].ready.timeout", "policy.max_timeout allows 6h")
    assert admitted(data, over_cap="clamp").job.ready_timeouts == (21600,)


@pytest.mark.parametrize(
    ("secrets", "allowed"),
    [
        ({}, False),
        ({"npm": ["other"]}, False),
        ({"npm": ["token"]}, True),
        ({"npm": ["*"]}, True),
        ({"*": ["token"]}, True),
        ({"*": ["*"]}, True),
    ],
)
def test_secrets_are_allowed_key_by_key(secrets: dict[str, Any], *, allowed: bool) -> None:
    data = least(secrets={"T": {"secret": "npm", "key": "token"}})
    if allowed:
        admitted(data, secrets=secrets)
    else:
        assert [problem.path for problem in refusals(data, secrets=secrets)] == ["secrets.T"]


def test_credentials_need_the_whole_secret() -> None:
    data = least(source={"git": "https://h.example/a", "credentials": {"secret": "git"}})
    assert refusals(data, secrets={"git": ["password"]})
    admitted(data, secrets={"git": ["*"]})


@pytest.mark.parametrize("url", ["file:///srv/a.git", "http://h.example/a", "git://h.example/a"])
def test_unsafe_schemes_are_for_local_runs_only(url: str) -> None:
    data = least(source={"git": url})
    assert [problem.path for problem in refusals(data)] == ["source.git"]
    admit(parse_description(data), local_policy(gateway_url="http://127.0.0.1:8080"))


def test_a_folder_is_for_local_runs_only() -> None:
    data = parse_description(least(source={"folder": "/home/ann/app"}))
    with pytest.raises(InvalidDescription, match=r"policy\.host_paths"):
        admit(data, DEFAULT_POLICY)
    admit(data, local_policy(gateway_url="http://127.0.0.1:8080"))
    with pytest.raises(InvalidDescription, match="does not allow this folder"):
        admit(data, local_policy(gateway_url="http://127.0.0.1:8080", host_paths=["/srv"]))
    with pytest.raises(InvalidDescription, match="relative"):
        admit(parse_description(least(source={"folder": "."})), local_policy(gateway_url="http://127.0.0.1:8080"))


@pytest.mark.parametrize(
    ("path", "folders", "inside"),
    [
        ("/srv", ("/srv",), True),
        ("/srv/a", ("/srv",), True),
        ("/srv/", ("/srv",), True),
        ("/srvx", ("/srv",), False),
        ("/srv/../etc", ("/srv",), False),
        ("//etc", ("/srv",), False),
        ("srv", ("/srv",), False),
        ("/etc", ("/",), True),
        ("/etc", (), False),
    ],
)
def test_folders_are_compared_by_their_parts(path: str, folders: tuple[str, ...], *, inside: bool) -> None:
    assert is_below(path, folders) is inside


def scope(source: dict[str, Any] | None, name: str = "job", **policy: Any) -> str:
    return admitted(least(source=source, name=name), **policy).job.cache_scope


def test_jobs_of_one_repository_share_caches() -> None:
    url = "https://h.example/acme/app"
    assert scope({"git": url}) == scope({"git": url + ".git", "ref": "dev"}, name="other")
    assert scope({"git": url}) == scope({"git": "https://H.example/acme/app/"})
    assert scope({"git": url}) != scope({"git": "https://h.example/acme/App"})
    assert scope({"git": url}) != scope(None)


def test_the_policy_narrows_or_widens_the_scope() -> None:
    url = {"git": "https://h.example/a"}
    assert scope(url, name="a", cache_scope="job-name") != scope(url, name="b", cache_scope="job-name")
    assert scope(url, cache_scope="shared") == scope(None, name="b", cache_scope="shared")


def test_jobs_without_source_share_by_name() -> None:
    assert scope(None, name="a") == scope(None, name="a")
    assert scope(None, name="a") != scope(None, name="b")


@given(descriptions)
def test_every_decision_has_a_source(data: dict[str, Any]) -> None:
    admission = admitted(data, **OPEN)
    assert {decision.source for decision in admission.decisions} <= {"description", "policy default", "policy"}
    paths = [decision.path for decision in admission.decisions]
    assert len(paths) == len(set(paths))


# -- the policy itself


def policy_problems(data: object) -> tuple[Problem, ...]:
    with pytest.raises(InvalidPolicy) as caught:
        parse_policy(data)
    return caught.value.problems


def test_the_default_policy_is_strict() -> None:
    assert DEFAULT_POLICY == Policy() == parse_policy({})
    assert not DEFAULT_POLICY.secrets
    assert not DEFAULT_POLICY.host_paths
    assert not DEFAULT_POLICY.allow_root
    assert not DEFAULT_POLICY.allow_privileged
    assert DEFAULT_POLICY.source_schemes == {"https", "ssh"}
    assert DEFAULT_POLICY.platform_retries == 2


def test_every_field_of_the_policy_is_documented() -> None:
    assert [name for name, field in Policy.model_fields.items() if not field.description] == []
    assert [name for name, field in Policy.model_fields.items() if field.is_required()] == []


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        ([], "", "mapping"),
        ({"runnr_image": "a"}, "runnr_image", "did you mean runner_image?"),
        ({"default_timeout": "7h"}, "", "the default exceeds the cap: timeout"),
        ({"max_resources": {"cpu": "500m"}}, "", "resources.cpu"),
        ({"gateway_url": "gateway"}, "gateway_url", "no HTTP URL"),
        ({"gateway_url": "http://me@gateway:80"}, "gateway_url", "user name"),
        ({"gateway_url": "http://a..b/"}, "gateway_url", "no host's name"),
        ({"gateway_url": f"http://{'a' * 64}.example/"}, "gateway_url", "no host's name"),
        ({"gateway_url": "http://g\u00e4teway"}, "gateway_url", "xn--"),
        ({"gateway_address": "http://10.0.0.7"}, "gateway_address", ""),
        ({"_gateway_address": "http://10.0.0.7"}, "_gateway_address", ""),
        ({"namespace": "A"}, "namespace", "no namespace"),
        ({"platform_retries": -1}, "platform_retries", "0 or more"),
        ({"platform_backoff": []}, "platform_backoff", "at least 1"),
        ({"cache_scope": "all"}, "cache_scope", "not one of"),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy", "not one of"),
        ({"user_namespaces": "yes"}, "user_namespaces", "not one of"),
        ({"shim_delivery": "magic"}, "shim_delivery", "not one of"),
        ({"max_keep": -1}, "max_keep", "between 1s and 30d"),
        ({"max_keep": False}, "max_keep", "a duration is text"),
        ({"user_namespaces": True, "shim_delivery": "image-volume"}, "", "exclude each other"),
    ],
)
def test_a_wrong_policy_is_refused(data: object, path: str, words: str) -> None:
    (problem,) = policy_problems(data)
    assert problem.path == path
    assert words in f"{problem.message}; {problem.remedy}"


@pytest.mark.parametrize("offered", [True, False])
def test_only_auto_is_settled_by_what_the_cluster_offers(*, offered: bool) -> None:
    assert parse_policy({}).resolved(user_namespaces=offered).user_namespaces is offered
    for word in (True, False):
        assert parse_policy({"user_namespaces": word}).resolved(user_namespaces=offered).user_namespaces is word
    volume = parse_policy({"shim_delivery": "image-volume"})
    assert volume.resolved(user_namespaces=offered).user_namespaces is False


def test_local_runs_have_no_user_namespace() -> None:
    assert local_policy(gateway_url="http://127.0.0.1:8080").user_namespaces is False


def test_the_gateways_url_loses_its_final_slash() -> None:
    assert parse_policy({"gateway_url": "http://gateway:80/base/"}).gateway_url == "http://gateway:80/base"


@pytest.mark.parametrize(
    "url", ["http://gateway.jobs.svc.:8080", "http://my_gateway", "http://[fd00::1]:80", f"http://{'a' * 63}.example"]
)
def test_a_gateways_name_may_be_any_that_can_be_looked_up(url: str) -> None:
    assert parse_policy({"gateway_url": url}).gateway_url == url


def test_a_gateway_has_a_name_beside_its_address_only_where_that_has_taken_its_place() -> None:
    policy = parse_policy({"gateway_url": "http://gateway:8080/base"})
    assert (policy.gateway_address, policy.gateway_name) == ("http://gateway:8080/base", "")
    same = policy.with_gateway_at("http://gateway:8080/base")
    assert (same.gateway_address, same.gateway_name) == ("http://gateway:8080/base", "")
    found = policy.with_gateway_at("http://10.0.0.7:8080/base").resolved(user_namespaces=True)
    assert (found.gateway_address, found.gateway_name) == ("http://10.0.0.7:8080/base", "gateway:8080")
    assert (found.gateway_url, policy.gateway_name) == ("http://gateway:8080/base", "")


@pytest.mark.parametrize("field", ["initContainers", "containers"])
def test_a_service_cannot_take_over_a_container_of_the_pod_patch(field: str) -> None:
    patch = {"spec": {field: [{"name": "proxy", "image": "corp/proxy:1"}]}}
    description = parse_description(
        {"image": "app", "steps": [{"run": "x"}], "services": [{"name": "proxy", "image": "alpine"}]}
    )
    with pytest.raises(InvalidDescription, match=r"services\[0\]\.name: policy\.pod_patch uses this name"):
        admit(description, parse_policy({"pod_patch": patch}))
