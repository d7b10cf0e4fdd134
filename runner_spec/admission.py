"""Admission: a description under a policy becomes a job with every value settled, or is refused with every reason.

The decisions say which rule set each value; `dynapod explain` prints them.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

from runner_spec import grammar, names
from runner_spec.description import FolderSource, GitSource, JobDescription, Resources, Service
from runner_spec.duration import format_duration
from runner_spec.policy import Amounts, Policy
from runner_spec.problem import InvalidDescription, Problem, join_path, shorten
from runner_spec.quantity import Quantity

DESCRIPTION: Final = "description"
POLICY_DEFAULT: Final = "policy default"
POLICY_CAP: Final = "policy cap"
POLICY: Final = "policy"

Settled = Mapping[str, Quantity]  # by Kubernetes' resource name: cpu, memory, ephemeral-storage


@dataclass(frozen=True, slots=True)
class Decision:
    """Where an effective value comes from. `rule` is the field of the policy that set or bounded it, if any."""

    path: str
    value: str
    source: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class EffectiveJob:
    """A description with every value settled.

    `timeout` and `keep` (0: not at all) in seconds; `service_resources` and `ready_timeouts` (seconds; 0 where nothing
    is waited for) are in the services' order.
    """

    description: JobDescription
    timeout: int
    keep: int
    resources: Settled
    service_resources: tuple[Settled, ...]
    ready_timeouts: tuple[int, ...]
    cache_scope: str


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted job, the policy that admitted it, and why each value is what it is."""

    job: EffectiveJob
    policy: Policy
    decisions: tuple[Decision, ...]


class _Ledger:
    """Decisions and refusals, as they are found."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.decisions: list[Decision] = []
        self.problems: list[Problem] = []

    def decide(self, path: str, value: object, source: str, rule: str = "") -> None:
        self.decisions.append(Decision(path, str(value), source, rule))

    def refuse(self, path: str, message: str, value: object, remedy: str) -> None:
        self.problems.append(Problem(path, message, shorten(value), remedy))


def _check_service_names(ledger: _Ledger, description: JobDescription) -> None:
    """A service named like a container of the operator's pod patch would be merged into it, and get what that has."""
    spec = ledger.policy.pod_patch.get("spec")
    lists = [spec.get(field) for field in ("initContainers", "containers")] if isinstance(spec, Mapping) else []
    items = [item for found in lists if isinstance(found, list | tuple) for item in found]
    taken = {item.get("name") for item in items if isinstance(item, Mapping)}
    for place, service in enumerate(description.services):
        if service.name in taken:
            remedy = "give the service another name"
            ledger.refuse(f"services[{place}].name", "policy.pod_patch uses this name", service.name, remedy)


def admit(description: JobDescription, policy: Policy) -> Admission:
    """Settle every value of a description under a policy.

    Raises:
        InvalidDescription: with every refusal; each names the policy's rule.
    """
    ledger = _Ledger(policy)
    _check_images(ledger, description)
    _check_source(ledger, description)
    _check_secrets(ledger, description)
    _check_service_names(ledger, description)
    if len(description.services) > policy.max_services:
        count = len(description.services)
        ledger.refuse("services", f"policy.max_services allows {policy.max_services}", count, "use fewer services")
    job = EffectiveJob(
        description=description,
        timeout=_timeout(ledger, description),
        keep=_keep(ledger, description),
        resources=_resources(
            ledger,
            "resources",
            description.resources,
            ("default_resources", policy.default_resources),
            ("max_resources", policy.max_resources),
        ),
        service_resources=tuple(_service(ledger, place, service) for place, service in enumerate(description.services)),
        ready_timeouts=tuple(_ready(ledger, place, service) for place, service in enumerate(description.services)),
        cache_scope=_cache_scope(description, policy),
    )
    _record_policy(ledger, job)
    if ledger.problems:
        raise InvalidDescription(ledger.problems)
    return Admission(job, policy, tuple(ledger.decisions))


def _check_images(ledger: _Ledger, description: JobDescription) -> None:
    images = [("image", description.image)]
    images += [(join_path(("services", place, "image")), s.image) for place, s in enumerate(description.services)]
    for path, image in images:
        ledger.decide(path, image, DESCRIPTION, "policy.images")
        if not any(fnmatchcase(image, glob) for glob in ledger.policy.images):
            allowed = ", ".join(ledger.policy.images) or "none"
            ledger.refuse(path, "policy.images does not allow this image", image, f"use one of: {allowed}")


def _check_source(ledger: _Ledger, description: JobDescription) -> None:
    source = description.source
    if isinstance(source, FolderSource):
        ledger.decide("source.folder", source.folder, DESCRIPTION, "policy.host_paths")
        _check_folder(ledger, source.folder)
    elif isinstance(source, GitSource):
        ledger.decide("source.git", source.git, DESCRIPTION, "policy.source_schemes")
        scheme = grammar.git_scheme(source.git)
        if scheme not in ledger.policy.source_schemes:
            allowed = ", ".join(sorted(ledger.policy.source_schemes)) or "none"
            message = f"policy.source_schemes does not allow {scheme}"
            ledger.refuse("source.git", message, source.git, f"use one of these schemes: {allowed}")


def _check_folder(ledger: _Ledger, folder: str) -> None:
    if not ledger.policy.host_paths:
        message = "policy.host_paths allows no folder as source: it would be a folder of the node"
        ledger.refuse("source.folder", message, folder, "use git, or run the job locally with `dynapod run`")
    elif not posixpath.isabs(folder):
        ledger.refuse("source.folder", "the folder is relative", folder, "write its absolute path")
    elif not is_below(folder, ledger.policy.host_paths):
        allowed = ", ".join(ledger.policy.host_paths)
        ledger.refuse(
            "source.folder", "policy.host_paths does not allow this folder", folder, f"use one below: {allowed}"
        )


def is_below(path: str, folders: tuple[str, ...]) -> bool:
    """Whether an absolute path is one of the folders or lies below one, `..` resolved by text."""
    if not posixpath.isabs(path):
        return False
    normal = posixpath.normpath("/" + path.lstrip("/"))
    roots = [posixpath.normpath("/" + folder.lstrip("/")) for folder in folders]
    return any(root in {normal, "/"} or normal.startswith(root + "/") for root in roots)


def _check_secrets(ledger: _Ledger, description: JobDescription) -> None:
    wanted: list[tuple[str, str, str | None]] = [
        (join_path(("secrets", name)), ref.secret, ref.key) for name, ref in description.secrets.items()
    ]
    source = description.source
    if isinstance(source, GitSource) and source.credentials:
        # They are mounted as a whole, so they need all of the Secret's keys.
        wanted.append(("source.credentials.secret", source.credentials.secret, None))
    for path, secret, key in wanted:
        value = secret if key is None else f"{secret}/{key}"
        ledger.decide(path, value, DESCRIPTION, "policy.secrets")
        if not ledger.policy.allows_secret(secret, key):
            whole = "the whole of this Secret" if key is None else "this key of this Secret"
            message = f"policy.secrets does not allow {whole}"
            ledger.refuse(path, message, value, "ask the operator to add it, or use one that is allowed")


def _timeout(ledger: _Ledger, description: JobDescription) -> int:
    policy, asked = ledger.policy, description.timeout
    if asked is None:
        ledger.decide("timeout", format_duration(policy.default_timeout), POLICY_DEFAULT, "policy.default_timeout")
        return policy.default_timeout
    return _capped(ledger, "timeout", asked, ("max_timeout", policy.max_timeout))


def _keep(ledger: _Ledger, description: JobDescription) -> int:
    cap = ledger.policy.max_keep
    if description.keep is None:
        return 0
    if not cap:
        # Also where caps clamp: to keep nothing at all is not what the author asked for, only shorter.
        message = "policy.max_keep allows no container to be kept"
        ledger.refuse("keep", message, f"on-failure {format_duration(description.keep)}", "remove it")
        return 0
    return _capped(ledger, "keep", description.keep, ("max_keep", cap))


def _ready(ledger: _Ledger, place: int, service: Service) -> int:
    """A service's time to start counts towards the pod's deadline, which must have a bound."""
    if service.ready is None:
        return 0
    path = join_path(("services", place, "ready", "timeout"))
    return _capped(ledger, path, service.ready.timeout, ("max_timeout", ledger.policy.max_timeout))


def _capped(ledger: _Ledger, path: str, asked: int, cap: tuple[str, int]) -> int:
    """Seconds asked for, within the cap of that rule."""
    field, limit = cap
    rule, text = f"policy.{field}", format_duration(limit)
    if asked <= limit:
        ledger.decide(path, format_duration(asked), DESCRIPTION, rule)
        return asked
    if ledger.policy.over_cap == "clamp":
        ledger.decide(path, text, POLICY_CAP, rule)
    else:
        ledger.refuse(path, f"{rule} allows {text}", format_duration(asked), f"ask for {text} or less")
    return limit


def _service(ledger: _Ledger, place: int, service: Service) -> Settled:
    policy = ledger.policy
    return _resources(
        ledger,
        join_path(("services", place, "resources")),
        service.resources,
        ("default_service_resources", policy.default_service_resources),
        ("max_service_resources", policy.max_service_resources),
    )


def _resources(
    ledger: _Ledger, path: str, asked: Resources, default: tuple[str, Amounts], cap: tuple[str, Amounts]
) -> Settled:
    (default_rule, defaults), (cap_rule, caps) = default, cap
    wanted = {"cpu": asked.cpu, "memory": asked.memory, "ephemeral-storage": asked.ephemeral_storage}
    limits, settled = caps.as_mapping(), defaults.as_mapping()
    for name, quantity in wanted.items():
        where, rule, limit = f"{path}.{name}", f"policy.{cap_rule}.{name}", limits[name]
        if quantity is None:
            ledger.decide(where, settled[name], POLICY_DEFAULT, f"policy.{default_rule}.{name}")
        elif quantity <= limit:
            settled[name] = quantity
            ledger.decide(where, quantity, DESCRIPTION, rule)
        elif ledger.policy.over_cap == "clamp":
            settled[name] = limit
            ledger.decide(where, limit, POLICY_CAP, rule)
        else:
            ledger.refuse(where, f"{rule} allows {limit}", str(quantity), f"ask for {limit} or less")
    return settled


def _cache_scope(description: JobDescription, policy: Policy) -> str:
    """The name of the set of jobs that share caches; jobs of different sources never do, unless all are to."""
    if policy.cache_scope == "shared":
        return names.scope_name("shared", "all")
    source = description.source
    origin = "none"
    if isinstance(source, GitSource):
        origin = _repository(source.git)
    elif isinstance(source, FolderSource):
        origin = posixpath.normpath(source.folder)
    if policy.cache_scope == "job-name" or source is None:
        # Jobs without a source have nothing in common but their name.
        return names.scope_name("job", f"{len(origin)}:{origin}:{description.name}")
    return names.scope_name("source", origin)


def _repository(url: str) -> str:
    """One name for the usual spellings: with and without `.git`, a final slash, capitals in the host."""
    parts = urlsplit(url)
    if "://" in url:
        url = f"{parts.scheme}://{parts.netloc.lower()}{parts.path}"
    return url.rstrip("/").removesuffix(".git")


def _user(policy: Policy) -> str:
    if policy.roots_inside:
        return "root in a user namespace: nobody outside"
    if policy.user_namespaces == "auto" and policy.shim_delivery == "image-volume":
        return "uid 1000 (auto: policy.shim_delivery is image-volume, which excludes user namespaces)"
    if policy.user_namespaces == "auto":
        return "uid 1000 (auto: root in a user namespace where the worker finds that the cluster offers them)"
    return "uid 1000"


def _record_policy(ledger: _Ledger, job: EffectiveJob) -> None:
    """The values that only the operator sets."""
    policy = ledger.policy
    for field in ("runner_image", "gateway_url", "namespace", "service_account", "image_pull_policy", "shim_delivery"):
        ledger.decide(field, getattr(policy, field), POLICY, f"policy.{field}")
    for field in ("grace", "after_budget", "upload_budget"):
        ledger.decide(field, format_duration(getattr(policy, field)), POLICY, f"policy.{field}")
    ledger.decide("user", _user(policy), POLICY, "policy.user_namespaces")
    ledger.decide("cache_scope", job.cache_scope, POLICY, "policy.cache_scope")
    ledger.decide("retry.attempts", job.description.retry.attempts, DESCRIPTION)
    ledger.decide("platform_retries", policy.platform_retries, POLICY, "policy.platform_retries")
    optional = {
        "node_selector": policy.node_selector,
        "tolerations": policy.tolerations,
        "runtime_class": policy.runtime_class,
        "allow_debug": policy.allow_debug,
        "pod_patch": policy.pod_patch,
    }
    for field, value in optional.items():
        if value:
            ledger.decide(field, shorten(value), POLICY, f"policy.{field}")
