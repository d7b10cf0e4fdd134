import itertools
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner_spec import anatomy
from runner_spec.admission import admit
from runner_spec.description import parse_description
from runner_spec.plan import Plan
from runner_spec.pod_check import check_pod
from runner_spec.policy import Policy, local_policy, parse_policy
from runner_spec.problem import InvalidDescription, InvalidPolicy
from runner_spec.render import Attempt, deadline, grace_period, manifest_json, render
from tests.runner_spec.descriptions import descriptions, hostile_text, least, whole

Json = dict[str, Any]
GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))  # writes what is rendered now: review the difference before you keep it

OPEN: Json = {"secrets": {"*": ["*"]}}
LOCAL = local_policy(gateway_url="http://127.0.0.1:8080")
PEASANTS: Json = OPEN | {
    "runner_image": "registry.example/dynapod/runner:1.2.3",
    "gateway_url": "https://dynapod.example",
    "namespace": "jobs",
    "service_account": "jobs",
    "node_selector": {"pool": "jobs"},
    "tolerations": [{"key": "jobs", "operator": "Exists", "effect": "NoSchedule"}],
    "runtime_class": "gvisor",
    "image_pull_secrets": ["registry"],
    "image_pull_policy": "Always",
    "pod_patch": {
        "metadata": {"labels": {"team": "builds"}},
        "spec": {"priorityClassName": "low", "containers": [{"name": "run", "env": [{"name": "TZ", "value": "UTC"}]}]},
    },
}
SERVICES = [
    {"name": "db", "image": "postgres:16", "ready": {"command": ["pg_isready", "-U", "$(USER)"], "timeout": "30s"}},
    {
        "name": "search",
        "image": "search:8",
        "command": ["run"],
        "args": ["--home", "$$HOME"],
        "env": {"OPTS": "-Xmx1g"},
        "ready": {"http": "http://search:9200/health", "timeout": "2m"},
        "resources": {"memory": "2Gi"},
    },
    {"name": "queue", "image": "redis:7"},
]

GOLDENS: dict[str, tuple[Json, Policy]] = {
    "least": (least(), parse_policy({})),
    "whole": (whole(), parse_policy(OPEN)),
    "services": (least(services=SERVICES, env={"PRICE": "5$", "PATH_LIKE": "$(HOME)/bin"}), parse_policy(OPEN)),
    "cache-only": (
        least(source={"git": "git@git.example:a/b.git", "depth": 0}, cache=[{"key": "k", "paths": ["~/.m2"]}]),
        parse_policy(OPEN),
    ),
    "local-folder": (
        least(source={"folder": "/home/ann/app", "files": ["a.py"]}, artifacts=[{"name": "a", "paths": ["**"]}]),
        LOCAL,
    ),
    "user-namespace": (least(timeout="5m"), parse_policy({"user_namespaces": True})),
    "alone": (least(keep="on-failure 1h"), parse_policy({"shim_delivery": "image-volume", "max_keep": "2h"})),
    "image-volume": (
        least(source={"git": "https://git.example/a.git"}, artifacts=[{"name": "a", "paths": ["**"]}]),
        parse_policy({"shim_delivery": "image-volume", "allow_debug": True}),
    ),
    "operator": (
        least(name="nightly build", resources={"cpu": 0.5, "ephemeral-storage": "20Gi"}),
        parse_policy(PEASANTS),
    ),
}


def rendered(
    data: Json, policy: Policy | None = None, job_id: str = "job-1", number: int = 1, worker: str = "w-1"
) -> Json:
    admission = admit(parse_description(data), policy or parse_policy(OPEN))
    return render(admission, Attempt(job_id, number, worker))


def containers(pod: Json) -> dict[str, Json]:
    spec = pod["spec"]
    return {container["name"]: container for container in [*spec.get("initContainers", []), *spec["containers"]]}


def mounts(container: Json) -> dict[str, bool]:
    return {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}


def variables(container: Json) -> Json:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def step_variables(pod: Json) -> dict[str, str]:
    """What the fragment sets for the steps; a value that the shell expands as it is written."""
    words = iter(shlex.split(pod["metadata"]["annotations"][anatomy.ANNOTATION_STEPS]))
    assert next(word for word in words if word == "export")
    return dict(word.split("=", 1) for word in itertools.takewhile(lambda word: not word.startswith("dynapod_"), words))


def plan_of(pod: Json) -> Plan:
    return Plan.from_json(pod["metadata"]["annotations"][anatomy.ANNOTATION_PLAN])


# -- goldens: reviewed by people; `UPDATE_GOLDEN=1 pytest tests/runner_spec/test_render.py` writes them anew


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_manifest_is_rendered_as_reviewed(name: str) -> None:
    data, policy = GOLDENS[name]
    pod = rendered(data, policy, job_id="0b0d3c9e", worker="worker-a")
    path = GOLDEN / f"{name}.yaml"
    if UPDATE:
        path.write_text(yaml.safe_dump(pod, sort_keys=False, width=110), encoding="utf-8")
    assert pod == yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_manifest_is_a_pod_for_kubernetes(name: str) -> None:
    from kubernetes.client.models.v1_pod import V1Pod  # noqa: PLC0415 - a second to import: only when it is needed

    pod = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8"))
    model = V1Pod.model_validate(pod)
    assert model.metadata.name == pod["metadata"]["name"]
    assert json.loads(model.to_json()) == pod  # no field is unknown to it, none is dropped


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_manifest_passes_the_policys_check(name: str) -> None:
    pod = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text(encoding="utf-8"))
    assert check_pod(pod, GOLDENS[name][1]) == []


def test_no_golden_is_forgotten() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(GOLDENS)


# -- properties


@given(
    descriptions,
    st.text(st.characters(), max_size=30),
    st.integers(1, 10**10 - 1),
    st.text(st.characters(), max_size=30),
)
def test_every_valid_description_renders_a_pod_that_passes_the_check(
    data: Json, job_id: str, number: int, worker: str
) -> None:
    policy = parse_policy(OPEN)
    pod = rendered(data, policy, job_id, number, worker)
    assert check_pod(pod, policy) == []
    manifest_json(pod).encode()


@given(descriptions)
def test_equal_inputs_give_equal_bytes(data: Json) -> None:
    backwards = {key: data[key] for key in reversed(data)}
    if "env" in data:
        backwards["env"] = dict(reversed(data["env"].items()))
    assert manifest_json(rendered(data)) == manifest_json(rendered(backwards))


def _expand(text: str, environment: dict[str, str]) -> str:
    """What Kubernetes makes of a value: third_party/forked/golang/expansion/expand.go, step by step."""
    out, cursor = "", 0
    while cursor < len(text):
        if text[cursor] != "$" or cursor + 1 == len(text):
            out, cursor = out + text[cursor], cursor + 1
        elif text[cursor + 1] == "$":
            out, cursor = out + "$", cursor + 2
        elif text[cursor + 1] == "(" and ")" in text[cursor:]:
            end = text.index(")", cursor)
            name = text[cursor + 2 : end]
            out, cursor = out + environment.get(name, f"$({name})"), end + 1
        else:
            out, cursor = out + text[cursor : cursor + 2], cursor + 2
    return out


@given(value=hostile_text | st.text("$()A", max_size=12))
def test_values_reach_the_process_unchanged(value: str) -> None:
    service = {"name": "db", "image": "a", "env": {"X": value}, "args": [value], "command": ["a", value]}
    pod = rendered(least(env={"A": "expanded", "X": value}, services=[service]))
    for name in ("run", "db"):
        assert _expand(variables(containers(pod)[name])["X"], {"A": "expanded"}) == value
    assert _expand(containers(pod)["db"]["args"][0], {"A": "expanded"}) == value
    assert _expand(containers(pod)["db"]["command"][1], {"A": "expanded"}) == value


# -- anatomy


def test_containers_stand_in_the_order_of_their_start() -> None:
    pod = rendered(whole(services=SERVICES))
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["db", "search", "queue", "checkout", "upload"]
    assert [c["name"] for c in pod["spec"]["containers"]] == ["run"]
    sidecars = [c["name"] for c in pod["spec"]["initContainers"] if c.get("restartPolicy") == "Always"]
    assert sidecars == ["db", "search", "queue", "upload"]


def test_a_container_with_nothing_to_do_is_not_rendered() -> None:
    assert set(containers(rendered(least()))) == {"checkout", "run"}
    assert set(containers(rendered(least(cache=[{"key": "k", "paths": ["x"]}])))) == {"checkout", "upload", "run"}


ALONE = {"run"}
WITH_CHECKOUT = {"run", "checkout"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ALONE),
        ({"after": [{"run": "x"}], "env": {"A": "b"}, "keep": "on-failure 5m"}, ALONE),
        ({"services": [{"name": "db", "image": "a"}]}, ALONE | {"db"}),
        # The kubelet itself waits for a startup probe.
        ({"services": [{"name": "db", "image": "a", "ready": {"command": ["x"]}}]}, ALONE | {"db"}),
        ({"services": [{"name": "db", "image": "a", "ready": {"tcp": 1}}]}, WITH_CHECKOUT | {"db"}),
        ({"source": {"git": "https://h.example/a"}}, WITH_CHECKOUT),
        ({"secrets": {"T": {"secret": "npm", "key": "token"}}}, WITH_CHECKOUT),
        ({"cache": [{"key": "k", "paths": ["x"]}]}, WITH_CHECKOUT | {"upload"}),
        ({"artifacts": [{"name": "a", "paths": ["x"]}]}, ALONE | {"upload"}),
    ],
)
def test_with_the_shim_in_a_volume_checkout_is_there_only_for_its_other_work(fields: Json, expected: set[str]) -> None:
    policy = parse_policy(OPEN | {"shim_delivery": "image-volume", "max_keep": "1h"})
    pod = rendered(least(**fields), policy)
    assert check_pod(pod, policy) == []
    names = [c["name"] for field in ("initContainers", "containers") for c in pod["spec"].get(field, [])]
    assert set(names) == expected
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert ("token" in volumes) == ("tmp" in volumes) == bool({"checkout", "upload"} & expected)


def test_checkout_fills_no_folder_that_comes_from_an_image() -> None:
    pod = rendered(least(source={"git": "https://h.example/a"}), parse_policy({"shim_delivery": "image-volume"}))
    checkout = containers(pod)["checkout"]
    assert anatomy.BIN_PATH not in mounts(checkout)
    assert plan_of(pod).shim is False
    assert plan_of(rendered(least())).shim is True


@given(descriptions)
def test_every_folder_has_a_limit_that_is_counted_within_its_containers(data: Json) -> None:
    pod = rendered(data)
    sizes = {v["name"]: v["emptyDir"]["sizeLimit"] for v in pod["spec"]["volumes"] if "emptyDir" in v}
    limits = {name: c["resources"]["limits"]["ephemeral-storage"] for name, c in containers(pod).items()}
    assert sizes == {
        "workspace": limits["run"],
        "home": limits["run"],
        "bin": "16Mi",
        "state": "16Mi",
        "tmp": limits["checkout"],
    }


@given(descriptions)
def test_all_reports_of_a_pod_together_fit_what_the_kubelet_keeps(data: Json) -> None:
    pod = rendered(data)
    count = len(containers(pod))
    given_limits = {plan_of(pod).report_limit, int(step_variables(pod)[anatomy.ENV_REPORT_LIMIT])}
    assert given_limits == {min(4096, 12 * 1024 // count)}


def test_a_pod_of_the_most_containers_still_has_room_for_reports() -> None:
    services = [{"name": f"s{n}", "image": "a"} for n in range(16)]
    pod = rendered(least(services=services, artifacts=[{"name": "a", "paths": ["x"]}]), LOCAL)
    assert len(containers(pod)) == 19
    assert step_variables(pod)[anatomy.ENV_REPORT_LIMIT] == "646"


def test_a_kept_container_counts_towards_the_deadline_and_says_how_to_get_in() -> None:
    policy = parse_policy({"max_keep": "2h", "namespace": "jobs"})
    without = rendered(least(), policy, job_id="it's")
    pod = rendered(least(keep="on-failure 90m"), policy, job_id="it's")
    assert pod["spec"]["activeDeadlineSeconds"] == without["spec"]["activeDeadlineSeconds"] + 5400
    annotations = pod["metadata"]["annotations"]
    assert annotations[anatomy.ANNOTATION_KEEP] == "5400"
    assert anatomy.ANNOTATION_KEEP not in without["metadata"]["annotations"]
    (line,) = [x for x in annotations[anatomy.ANNOTATION_STEPS].splitlines() if x.startswith("dynapod_keep")]
    _, centiseconds, hint = shlex.split(line)
    name = pod["metadata"]["name"]
    assert centiseconds == "540000"
    shell = f"kubectl exec -it -n jobs {name} -c run -- /dynapod/bin/sh"
    assert hint == f"kept for 1h30m: {shell}; end it with: dynapod cancel {shlex.quote(chr(39).join(('it', 's')))}"


@pytest.mark.parametrize("allowed", [True, False])
def test_debugging_is_announced_only_where_the_policy_allows_it(*, allowed: bool) -> None:
    annotations = rendered(least(), parse_policy({"allow_debug": allowed}))["metadata"]["annotations"]
    assert annotations.get("dynapod.dev/debug") == ("allowed" if allowed else None)


def test_services_that_are_slow_to_start_have_the_jobs_longest_time() -> None:
    service = {"name": "db", "image": "a", "ready": {"command": ["x"], "timeout": "30d"}}
    policy = parse_policy({"over_cap": "clamp", "max_timeout": "2h"})
    pod = rendered(least(services=[service], timeout="1h"), policy)
    assert containers(pod)["db"]["startupProbe"]["failureThreshold"] == 7200
    assert pod["spec"]["activeDeadlineSeconds"] < 30_000


def test_run_sees_no_token_and_no_secret_file_and_cannot_change_its_shim() -> None:
    pod = rendered(whole())
    run = containers(pod)["run"]
    assert mounts(run) == {
        "/workspace": False,
        "/dynapod/home": False,
        "/dynapod/state": False,
        "/dynapod/plan": True,
        "/dynapod/bin": True,
    }
    assert (
        not {anatomy.ENV_TOKEN, anatomy.ENV_GATEWAY, anatomy.ENV_SECRETS, anatomy.ENV_CREDENTIALS}
        & variables(run).keys()
    )
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_a_gateway_by_its_address_comes_with_its_name_for_those_who_talk_to_it() -> None:
    policy = parse_policy(OPEN | {"gateway_url": "http://gateway:8080"})
    named = {name: variables(container) for name, container in containers(rendered(whole(), policy)).items()}
    assert not any(anatomy.ENV_GATEWAY_NAME in found for found in named.values())
    pod = rendered(whole(), policy.with_gateway_at("http://10.0.0.7:8080"))
    pinned = {name: variables(container) for name, container in containers(pod).items()}
    for name in ("checkout", "upload"):
        address = {anatomy.ENV_GATEWAY: "http://10.0.0.7:8080", anatomy.ENV_GATEWAY_NAME: "gateway:8080"}
        assert pinned[name] == named[name] | address
    assert (pinned["run"], pinned["db"]) == (named["run"], named["db"])


def test_a_pod_says_how_many_artifacts_it_has() -> None:
    artifacts = [{"name": name, "paths": ["x"]} for name in ("a", "b")]
    for data, number in ((least(), "0"), (least(artifacts=artifacts), "2")):
        assert rendered(data)["metadata"]["annotations"][anatomy.ANNOTATION_ARTIFACTS] == number


def test_a_service_sees_the_workspace_alone_and_cannot_write_to_it() -> None:
    service = containers(rendered(whole()))["db"]
    assert mounts(service) == {"/workspace": True}  # read-only
    assert variables(service) == {"POSTGRES_PASSWORD": "x"}


def test_checkout_alone_sees_credentials_and_secrets() -> None:
    pod = rendered(whole())
    seeing = {
        name: set(mounts(container)) & {anatomy.CREDENTIALS_PATH, anatomy.SECRETS_PATH}
        for name, container in containers(pod).items()
    }
    assert seeing == {
        "db": set(),
        "checkout": {anatomy.CREDENTIALS_PATH, anatomy.SECRETS_PATH},
        "upload": set(),
        "run": set(),
    }
    assert plan_of(pod).masks == ("NPM_TOKEN",)
    reference = {"secretKeyRef": {"name": "npm", "key": "token"}}
    assert variables(containers(pod)["run"])["NPM_TOKEN"] == reference
    assert variables(containers(pod)["checkout"])["DYNAPOD_NEEDS_NPM_TOKEN"] == reference
    assert "NPM_TOKEN" not in str([containers(pod)["upload"]["env"], containers(pod)["db"]["env"]])


def test_every_path_that_the_containers_look_at_is_a_mount() -> None:
    sources = ({"git": "https://h.example/a", "credentials": {"secret": "git"}}, {"folder": "/home/ann/app"})
    found = [c for source in sources for c in containers(rendered(whole(source=source), LOCAL)).values()]
    mounted = {path for c in found if c["name"] in anatomy.RESERVED_CONTAINERS for path in mounts(c)}
    mounted |= {c["terminationMessagePath"] for c in found if c["name"] in anatomy.RESERVED_CONTAINERS}
    for name, value in anatomy.PATHS.items():
        assert any(value == path or value.startswith(path + "/") for path in mounted), name


def test_the_plan_and_the_steps_travel_in_annotations() -> None:
    pod = rendered(whole(), job_id="a/b ü", number=3)
    annotations = pod["metadata"]["annotations"]
    plan = plan_of(pod)
    assert (plan.job, plan.attempt, annotations[anatomy.ANNOTATION_JOB]) == ("a/b ü", 3, "a/b ü")
    assert plan.git is not None
    assert (plan.git.url, plan.git.credentials) == ("https://git.example/acme/app.git", True)
    assert [(ready.service, ready.tcp, ready.timeout) for ready in plan.ready] == [("db", 5432, 60.0)]
    assert "pytest -q" in annotations[anatomy.ANNOTATION_STEPS]
    assert annotations[anatomy.ANNOTATION_TIMEOUT] == "1800"
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "plan"]
    files = {item["path"]: item["fieldRef"]["fieldPath"] for item in volume["downwardAPI"]["items"]}
    assert files == {
        "plan.json": "metadata.annotations['dynapod.dev/plan']",
        "steps": "metadata.annotations['dynapod.dev/steps']",
    }


def test_only_a_command_is_a_startup_probe() -> None:
    pod = rendered(least(services=SERVICES))
    assert containers(pod)["db"]["startupProbe"] == {
        "exec": {"command": ["pg_isready", "-U", "$$(USER)"]},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        "failureThreshold": 30,
    }
    assert "startupProbe" not in containers(pod)["search"]
    assert [(ready.service, ready.http) for ready in plan_of(pod).ready] == [("search", "http://search:9200/health")]


def test_services_are_reached_by_their_names() -> None:
    pod = rendered(least(services=SERVICES))
    assert pod["spec"]["hostAliases"] == [{"ip": "127.0.0.1", "hostnames": ["db", "search", "queue"]}]
    assert "hostAliases" not in rendered(least())["spec"]


def test_the_token_is_for_dynapod_alone_and_short_lived() -> None:
    (volume,) = [volume for volume in rendered(least())["spec"]["volumes"] if volume["name"] == "token"]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "dynapod"
    assert 600 <= source["serviceAccountToken"]["expirationSeconds"] <= 3600


def test_the_kubelets_deadlines_leave_room_for_every_budget() -> None:
    policy = parse_policy({"grace": 20, "after_budget": 100, "upload_budget": 200, "checkout_budget": 500})
    description = least(timeout="10m", after=[{"run": "x"}], artifacts=[{"name": "a", "paths": ["a"]}])
    job = admit(parse_description(description), policy).job
    spec = rendered(description, policy)["spec"]
    assert spec["terminationGracePeriodSeconds"] == grace_period(job, policy) > 20 + 100 + 20 + 200
    assert spec["activeDeadlineSeconds"] == deadline(job, policy) > 500 + 600 + grace_period(job, policy)
    assert spec["restartPolicy"] == "Never"


def test_a_job_with_nothing_to_do_after_its_steps_needs_no_time_for_it() -> None:
    policy = parse_policy({"grace": 20, "after_budget": 1000, "upload_budget": 1000})
    assert 20 < rendered(least(), policy)["spec"]["terminationGracePeriodSeconds"] < 100


def test_every_container_satisfies_the_restricted_profile() -> None:
    pod = rendered(whole())
    security = pod["spec"]["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 1000, 1000)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pod).values():
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["capabilities"]) == (False, {"drop": ["ALL"]})
        assert (
            {"cpu", "memory", "ephemeral-storage"}
            == set(container["resources"]["limits"])
            == set(container["resources"]["requests"])
        )
    assert containers(pod)["checkout"]["securityContext"]["readOnlyRootFilesystem"] is True


def test_without_an_answer_of_the_cluster_nobody_is_root() -> None:
    for policy in (parse_policy({}), parse_policy({}).resolved(user_namespaces=False)):
        spec = rendered(least(), policy)["spec"]
        assert "hostUsers" not in spec
        assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsNonRoot"]) == (1000, True)


def test_root_is_only_root_inside_a_user_namespace() -> None:
    assert rendered(least(), parse_policy({}).resolved(user_namespaces=True))["spec"]["hostUsers"] is False
    spec = rendered(least(), parse_policy({"user_namespaces": True}))["spec"]
    assert spec["hostUsers"] is False
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsNonRoot"]) == (0, False)


def test_the_authors_variables_win_over_defaults_but_not_over_dynapods() -> None:
    secrets = {"GIT_CONFIG_COUNT": {"secret": "npm", "key": "count"}}
    pod = rendered(least(env={"CI": "", "HOME": "/x"}, secrets=secrets))
    run, exported = variables(containers(pod)["run"]), step_variables(pod)
    assert (run["CI"], run["HOME"]) == ("", "/x")
    assert not {"CI", "HOME", "GIT_CONFIG_COUNT"} & exported.keys()
    assert (exported["GIT_CONFIG_KEY_0"], exported["DYNAPOD_ATTEMPT"]) == ("safe.directory", "1")
    assert variables(containers(rendered(least()))["run"])["HOME"] == anatomy.HOME_PATH


def test_the_pod_of_a_plain_job_has_no_variable_that_can_be_known_otherwise() -> None:
    """Each one is a field that the API server decodes, tracks, stores, and sends in every event."""
    artifacts = [{"name": "a", "paths": ["x"]}]
    found = {name: variables(c) for name, c in containers(rendered(least(artifacts=artifacts))).items()}
    home, gateway = {"HOME": "/dynapod/home"}, parse_policy(OPEN).gateway_address
    assert found == {
        "checkout": {**home, "DYNAPOD_GATEWAY": gateway},
        "upload": {**home, "DYNAPOD_GATEWAY": gateway},
        "run": home,
    }


def test_what_an_attempt_is_called_travels_with_the_steps_whatever_the_id_holds() -> None:
    job_id = 'it\'s $(id)\n`id` "x" ü\0\ud800'
    pod = rendered(least(name="nightly build"), job_id=job_id, number=3)
    assert step_variables(pod) == {
        "CI": "true",
        "DYNAPOD_ATTEMPT": "3",
        "DYNAPOD_JOB": 'it\'s $(id)\n`id` "x" ü\ufffd\\ud800',
        "DYNAPOD_JOB_NAME": "nightly build",
        "DYNAPOD_REPORT_LIMIT": "4096",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "$DYNAPOD_WORKSPACE",
    }


def test_labels_let_the_worker_find_its_pods() -> None:
    labels = rendered(least(), job_id="x y", number=7, worker="w-9")["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "dynapod"
    assert (labels["dynapod.dev/attempt"], labels["dynapod.dev/worker"]) == ("7", "w-9")
    assert labels["dynapod.dev/job"].startswith("sha256.")


@pytest.mark.parametrize(
    "job_id", ["", "\0", "\ud800", "ü" * 5000, "'; $(id) `id` \"\n", "../../etc/passwd", "x" * 10_000]
)
def test_any_job_id_is_rendered(job_id: str) -> None:
    policy = parse_policy({})
    pod = rendered(least(), policy, job_id=job_id)
    assert check_pod(pod, policy) == []
    manifest_json(pod).encode()


def test_a_job_id_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidDescription, match="40000 bytes; 32768 are allowed"):
        rendered(least(), job_id="x" * 40_000)


def test_steps_that_only_just_fit_are_rendered_and_one_more_byte_counts() -> None:
    size = 252_000
    pod = rendered(least(steps=[{"run": "x" * size}]))
    annotations = pod["metadata"]["annotations"]
    assert sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) <= 262_144
    with pytest.raises(InvalidDescription, match="Kubernetes allows 262144"):
        rendered(least(steps=[{"run": "x" * size}]), job_id="y" * 20_000)


# -- the operator's patch


def patched(patch: Json, **policy: Any) -> Json:
    return rendered(least(), parse_policy({"pod_patch": patch, **policy}))


def test_a_patch_is_merged_deeply_and_by_name() -> None:
    pod = patched(
        {
            "metadata": {"annotations": {"a": "b"}},
            "spec": {
                "enableServiceLinks": None,
                "containers": [{"name": "run", "env": [{"name": "CI", "value": "x"}, {"name": "TZ", "value": "UTC"}]}],
                "volumes": [{"name": "more", "emptyDir": {}}],
            },
        }
    )
    assert pod["metadata"]["annotations"]["a"] == "b"
    assert anatomy.ANNOTATION_PLAN in pod["metadata"]["annotations"]
    assert "enableServiceLinks" not in pod["spec"]
    run = containers(pod)["run"]
    assert run["command"] == ["/dynapod/bin/sh", "/dynapod/bin/shim"]
    assert (variables(run)["CI"], variables(run)["TZ"]) == ("x", "UTC")
    assert "CI" not in step_variables(pod)  # the fragment would set it over the operator's word
    assert step_variables(pod)["GIT_CONFIG_COUNT"] == "1"
    assert [volume["name"] for volume in pod["spec"]["volumes"]][-1] == "more"


RUN_AS_ROOT = {"spec": {"containers": [{"name": "run", "securityContext": {"runAsUser": 0, "runAsNonRoot": False}}]}}
PRIVILEGED = {"spec": {"containers": [{"name": "run", "securityContext": {"privileged": True}}]}}
MOUNT_TOKEN = {"spec": {"containers": [{"name": "run", "volumeMounts": [{"name": "token", "mountPath": "/t"}]}]}}
BAD_PATCHES: list[tuple[str, Json, str]] = [
    ("privileged", PRIVILEGED, "spec.containers[0].securityContext.privileged"),
    ("root", RUN_AS_ROOT, "spec.containers[0].securityContext.runAsUser"),
    (
        "capability",
        {"spec": {"containers": [{"name": "run", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}},
        "spec.containers[0].securityContext.capabilities.add",
    ),
    ("host network", {"spec": {"hostNetwork": True}}, "spec.hostNetwork"),
    ("host path", {"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}, "spec.volumes[7].hostPath"),
    ("API token", {"spec": {"automountServiceAccountToken": True}}, "spec.automountServiceAccountToken"),
    ("token in run", MOUNT_TOKEN, "spec.containers[0].volumeMounts[5].name"),
    (
        "dangling mount",
        {"spec": {"containers": [{"name": "run", "volumeMounts": [{"name": "nope", "mountPath": "/n"}]}]}},
        "spec.containers[0].volumeMounts[5].name",
    ),
    ("second main container", {"spec": {"containers": [{"name": "spy", "image": "a"}]}}, "spec.containers"),
    ("restart", {"spec": {"restartPolicy": "Always"}}, "spec.restartPolicy"),
    ("lost label", {"metadata": {"labels": {"dynapod.dev/worker": None}}}, 'metadata.labels["dynapod.dev/worker"]'),
    (
        "lost plan",
        {"metadata": {"annotations": {"dynapod.dev/plan": None}}},
        'metadata.annotations["dynapod.dev/plan"]',
    ),
    (
        "writable shim",
        {"spec": {"containers": [{"name": "run", "volumeMounts": [{"name": "bin", "readOnly": False}]}]}},
        "spec.containers[0].volumeMounts[4].readOnly",
    ),
    (
        "request over limit",
        {"spec": {"containers": [{"name": "run", "resources": {"requests": {"cpu": "9"}}}]}},
        "spec.containers[0].resources.cpu",
    ),
    (
        "no limit",
        {"spec": {"containers": [{"name": "run", "resources": {"limits": {"memory": None}}}]}},
        "spec.containers[0].resources.memory",
    ),
    ("no grace", {"spec": {"terminationGracePeriodSeconds": None}}, "spec.terminationGracePeriodSeconds"),
    ("nonsense", {"spec": {"containers": 7}}, "spec.containers"),
]


@pytest.mark.parametrize(("patch", "path"), [bad[1:] for bad in BAD_PATCHES], ids=[bad[0] for bad in BAD_PATCHES])
def test_a_patch_cannot_make_what_the_policy_forbids(patch: Json, path: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        patched(patch)
    assert path in [problem.path for problem in caught.value.problems]
    assert all(problem.remedy == "change policy.pod_patch" for problem in caught.value.problems)


def test_what_the_policy_allows_may_be_patched_in() -> None:
    assert containers(patched(RUN_AS_ROOT, allow_root=True))["run"]["securityContext"]["runAsUser"] == 0
    assert containers(patched(PRIVILEGED, allow_privileged=True))["run"]["securityContext"]["privileged"] is True
    volume = {"name": "tools", "hostPath": {"path": "/opt/tools", "type": "Directory"}}
    patched({"spec": {"volumes": [volume]}}, host_paths=["/opt"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["metadata", "spec", "containers", "initContainers", "volumes", "name", "env", "securityContext"]
                ),
                inner,
                max_size=3,
            )
        ),
    )
)
def test_the_check_survives_any_shape(pod: Any) -> None:
    problems = check_pod(pod if isinstance(pod, dict) else {}, parse_policy({}))
    assert problems
    for problem in problems:
        str(problem).encode()
