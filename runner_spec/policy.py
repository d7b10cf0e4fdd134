"""The operator's policy: defaults, caps and allow-lists for all jobs of one installation.

Every field has a default, documented beside it; the policy's file need only name what differs.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from runner_spec import diagnosis, grammar
from runner_spec.duration import RetentionSeconds, Seconds, SecondsOrZero
from runner_spec.problem import InvalidPolicy, Problem, shorten
from runner_spec.quantity import Bytes, Cpu, Quantity, parse_quantity
from runner_spec.version import __version__

_LABEL_CHARACTERS: Final = 63  # of a part of a DNS name (RFC 1035)

Texts = Annotated[tuple[str, ...], Strict(strict=False)]


def _quantity(text: str) -> Quantity:
    return parse_quantity(text)


def check_base_url(value: str) -> str:
    """An HTTP base URL without a trailing slash, of a host that can be looked up."""
    if "@" in value.partition("://")[2].partition("/")[0]:
        grammar.refuse(
            "the URL holds a user name or password",
            "remove it: jobs identify themselves to the gateway by their pods' tokens",
        )
    host = urlsplit(grammar.check_http_probe(value)).hostname or ""
    if not host.isascii():
        grammar.refuse("the host's name is not in ASCII", "write it as DNS does, with xn--…")
    # What is no label makes the look-up itself fail, in every worker, with words about an encoding.
    if not all(0 < len(label) <= _LABEL_CHARACTERS for label in host.removesuffix(".").split(".")):
        grammar.refuse(
            "this is no host's name",
            f"write http://NAME:PORT, the name's parts between dots with 1 to {_LABEL_CHARACTERS} characters",
        )
    return value.rstrip("/")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Amounts(_Model):
    """CPU, memory and disk of a container: request and limit alike."""

    cpu: Cpu = Field(default=_quantity("1"), description="Cores.")
    memory: Bytes = Field(default=_quantity("1Gi"), description="Memory.")
    ephemeral_storage: Bytes = Field(
        default=_quantity("4Gi"),
        alias="ephemeral-storage",
        description="Disk: volumes, logs and what is written elsewhere.",
    )

    def as_mapping(self) -> dict[str, Quantity]:
        """By Kubernetes' resource names."""
        return {"cpu": self.cpu, "memory": self.memory, "ephemeral-storage": self.ephemeral_storage}


def _amounts(cpu: str, memory: str, storage: str) -> Amounts:
    return Amounts.model_validate({"cpu": cpu, "memory": memory, "ephemeral-storage": storage})


class RunnerResources(_Model):
    """Requests and limits of `checkout` and of `upload`, which stream and need little."""

    requests: Amounts = Field(default=_amounts("50m", "64Mi", "64Mi"), description="What the scheduler reserves.")
    limits: Amounts = Field(
        # The runner stays below 64 MiB; git and its index-pack do not (a 62 MB repository took one anchor 256 MiB).
        # The workspace counts against the pod's sum, so the runner's own share of the disk is small.
        default=_amounts("2", "1Gi", "1Gi"),
        description="Upper bounds. git needs memory in proportion to the repository.",
    )


class Policy(_Model):
    """What the operator allows and sets. `Policy()` is strict: no Secret, no root, sources by https and ssh only."""

    # Where and with what
    runner_image: Annotated[str, AfterValidator(grammar.check_image)] = Field(
        default=f"dynapod-runner:{__version__}", description="Image of `checkout` and `upload`."
    )
    runner_command: Texts = Field(
        # -P and -s: else Python imports modules from the workspace and the home folder, where a job can plant them.
        default=("python3", "-P", "-s", "-m", "runner"),
        description="Command in the runner image; `checkout` or `upload` is added.",
    )
    gateway_url: Annotated[str, AfterValidator(check_base_url)] = Field(
        default="http://dynapod-gateway:8080", description="Base URL of the gateway, as seen from the pods."
    )
    namespace: Annotated[str, AfterValidator(grammar.check_namespace)] = Field(
        default="default", description="Namespace of the jobs' pods and Secrets."
    )
    service_account: Annotated[str, AfterValidator(grammar.check_secret_name)] = Field(
        default="default", description="Service account of the pods; only its identity is used, no token reaches `run`."
    )

    # Time, in seconds (or as 30m)
    default_timeout: Seconds = Field(default=3600, description="Timeout of a job that names none.")
    max_timeout: Seconds = Field(
        default=6 * 3600,
        description="Longest timeout that a job may ask for, for its steps and for a service to start.",
    )
    max_keep: SecondsOrZero = Field(
        default=0,
        description="Longest time that a failed job's pod may be kept for `kubectl exec`; 0 allows no `keep`.",
    )
    grace: Seconds = Field(default=30, description="Between TERM and KILL when steps are stopped.")
    after_budget: Seconds = Field(default=300, description="For all `after` steps together.")
    upload_budget: Seconds = Field(default=600, description="For saving caches and uploading artifacts.")
    checkout_budget: Seconds = Field(
        default=3600,
        description="For pulling images, starting services, checkout and cache; used by the backstop deadline.",
    )

    # Resources
    default_resources: Amounts = Field(default=Amounts(), description="Of `run`, where the job names none.")
    max_resources: Amounts = Field(default=_amounts("8", "16Gi", "50Gi"), description="Caps for `run`.")
    default_service_resources: Amounts = Field(
        default=_amounts("500m", "512Mi", "1Gi"), description="Of a service, where the job names none."
    )
    max_service_resources: Amounts = Field(default=_amounts("4", "8Gi", "20Gi"), description="Caps for each service.")
    runner_resources: RunnerResources = Field(default=RunnerResources(), description="Of `checkout` and `upload`.")
    over_cap: Literal["refuse", "clamp"] = Field(
        default="refuse", description="What happens to a job that asks for more than a cap."
    )
    max_services: int = Field(default=8, ge=0, le=16, description="Most services of one job.")

    # Allow-lists
    images: Texts = Field(
        default=("*",), description="Globs of the images that jobs may use; `*` crosses slashes. Case counts."
    )
    secrets: dict[str, Texts] = Field(
        default={}, description="Secret → keys that jobs may use; `*` as key allows all of it, as Secret any."
    )
    source_schemes: Annotated[frozenset[Literal["https", "http", "ssh", "git", "file"]], Strict(strict=False)] = Field(
        default=frozenset({"https", "ssh"}), description="Schemes of git URLs; git@host:path is ssh."
    )
    host_paths: Texts = Field(
        default=(), description="Folders of the node below which a job's source folder may lie. For local runs only."
    )

    # The pod
    allow_root: bool = Field(default=False, description="Whether the pod patch may make a container run as uid 0.")
    allow_privileged: bool = Field(default=False, description="Whether the pod patch may make a container privileged.")
    user_namespaces: Literal["auto", True, False] = Field(
        default="auto",
        description="Run as root inside a user namespace (hostUsers: false): root there, nobody on the node. `auto`: "
        "where the worker finds that its cluster offers them; else as uid 1000.",
    )
    allow_debug: bool = Field(
        default=False, description="Whether `dynapod debug` may open a shell in a running job's container."
    )
    shim_delivery: Literal["copy", "image-volume"] = Field(
        default="copy",
        description="How the shell and the shim reach `run`: copied by `checkout`, or as a volume of the runner's "
        "image, which spares `checkout` where nothing else needs it. Not together with user namespaces.",
    )
    node_selector: dict[str, str] = Field(default={}, description="Labels of the nodes for jobs.")
    tolerations: Annotated[tuple[dict[str, Any], ...], Strict(strict=False)] = Field(
        default=(), description="Taints of the nodes for jobs that pods tolerate, as in a pod's spec."
    )
    runtime_class: str | None = Field(default=None, description="runtimeClassName, for sandboxed runtimes.")
    image_pull_secrets: Texts = Field(default=(), description="Secrets that open private registries.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="For every image of the pod."
    )
    pod_patch: dict[str, Any] = Field(
        default={},
        description="Merged into the finished pod: mappings deeply, lists of named objects by name, null deletes. "
        "What it sets is the operator's word, within what `containment` grants no pod.",
    )
    cache_scope: Literal["repository", "job-name", "shared"] = Field(
        default="repository",
        description="Which jobs share caches: those of one repository, of one job name within it, or all.",
    )

    # Patience and retries
    platform_retries: int = Field(default=2, ge=0, le=100, description="Further attempts after faults of the platform.")
    platform_backoff: Annotated[tuple[Seconds, ...], Strict(strict=False)] = Field(
        default=(10, 60), min_length=1, description="Delays before them; the last one repeats. Up to a fifth is added."
    )
    worker_losses: int = Field(
        default=3,
        ge=0,
        le=100,
        description="How many workers may die while handling one job and no other, before it ends as `poison`; 0: any.",
    )
    job_backoff: Annotated[tuple[Seconds, ...], Strict(strict=False)] = Field(
        default=(1,), min_length=1, description="Delays before the retries that a description asks for."
    )
    pending_limit: Seconds = Field(default=6 * 3600, description="How long a pod may wait for a node.")
    start_limit: Seconds = Field(
        default=900, description="How long a scheduled pod may show no container at all (volumes, network, Secrets)."
    )
    image_pull_grace: Seconds = Field(default=120, description="How long an image may fail to be pulled.")
    config_grace: Seconds = Field(default=60, description="How long a container may lack its Secret.")
    node_loss_grace: Seconds = Field(
        default=300, description="How long after its deadline a deleted pod may linger before its node counts as lost."
    )
    max_log_bytes: int = Field(default=256 * 1024**2, ge=1024, description="Most bytes of log kept of one container.")

    # Storage
    retention: RetentionSeconds = Field(
        default=30 * 24 * 3600,
        description="How long the logs and artifacts of a job that has ended are kept, from the newest of them; "
        "`never` (or 0) deletes none.",
    )
    cache_retention: RetentionSeconds = Field(
        default=30 * 24 * 3600,
        description="How long a cache is kept from when it was saved; `never` (or 0) deletes none.",
    )

    # Found out by the worker, never written by the operator: `with_gateway_at`.
    _gateway_address: str = PrivateAttr(default="")

    def allows_secret(self, name: str, key: str | None) -> bool:
        """Whether jobs may use this key of this Secret; None stands for all of them, as a mounted Secret shows them."""
        allowed = {*self.secrets.get(name, ()), *self.secrets.get("*", ())}
        return "*" in allowed or (key is not None and key in allowed)

    def resolved(self, *, user_namespaces: bool) -> Self:
        """This policy with `auto` settled, as the cluster offers user namespaces or not; an explicit word stands.

        An image volume's overlay cannot be id-mapped (Kubernetes 1.34), so its delivery settles `auto` as well.
        """
        if self.user_namespaces != "auto":
            return self
        offered = user_namespaces and self.shim_delivery != "image-volume"
        return self.model_copy(update={"user_namespaces": offered})

    def with_gateway_at(self, address: str) -> Self:
        """This policy where the gateway's URL has this form with an address in place of the name."""
        policy = self.model_copy()
        policy._gateway_address = address  # noqa: SLF001 - of this very class
        return policy

    @property
    def gateway_address(self) -> str:
        """The base URL that pods connect to: as written, or with the address that a worker has found for the name."""
        return self._gateway_address or self.gateway_url

    @property
    def gateway_name(self) -> str:
        """`host:port` as written, for the Host header, where an address has taken its place; else empty."""
        return "" if self.gateway_address == self.gateway_url else urlsplit(self.gateway_url).netloc

    @property
    def roots_inside(self) -> bool:
        """Whether pods run as root inside a user namespace; an `auto` that is not settled yet counts as no."""
        return self.user_namespaces is True

    @model_validator(mode="after")
    def _one_mapping_of_users(self) -> Self:
        if self.user_namespaces is True and self.shim_delivery == "image-volume":
            context = {
                "reason": "user_namespaces: true and shim_delivery: image-volume exclude each other in Kubernetes: "
                "an image volume cannot be mapped to the users of a namespace",
                "remedy": "set shim_delivery: copy, or user_namespaces: auto or false",
            }
            raise PydanticCustomError("policy", "{reason}", context)
        return self

    @model_validator(mode="after")
    def _defaults_within_caps(self) -> Self:
        pairs = [("timeout", self.default_timeout, self.max_timeout)]
        for prefix, default, cap in (
            ("resources", self.default_resources, self.max_resources),
            ("service_resources", self.default_service_resources, self.max_service_resources),
            ("runner_resources", self.runner_resources.requests, self.runner_resources.limits),
        ):
            limits = cap.as_mapping()
            pairs += [(f"{prefix}.{name}", amount, limits[name]) for name, amount in default.as_mapping().items()]  # type: ignore[misc]
        wrong = [name for name, default, cap in pairs if default > cap]
        if wrong:
            context = {
                "reason": f"the default exceeds the cap: {', '.join(wrong)}",
                "remedy": "raise the cap or lower the default",
            }
            raise PydanticCustomError("policy", "{reason}", context)
        return self


DEFAULT_POLICY: Final = Policy()


def parse_policy(data: object) -> Policy:
    """Read a policy from a mapping, as loaded from its file or the chart's values.

    Raises:
        InvalidPolicy: with every problem found.
    """
    if not isinstance(data, Mapping):
        raise InvalidPolicy([Problem("", "a policy is a mapping", shorten(data), "write keys such as runner_image")])
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise InvalidPolicy(diagnosis.diagnose(error, Policy)) from error


def local_policy(*, gateway_url: str, host_paths: Sequence[str] = ("/",), **changes: object) -> Policy:
    """The policy of `dynapod run`: the author is the operator, so folders, `file://` and all Secrets are allowed.

    `changes` are further fields of `Policy`.

    Raises:
        InvalidPolicy: when a field is wrong.
    """
    fields: dict[str, object] = {
        "gateway_url": gateway_url,
        "host_paths": list(host_paths),
        "secrets": {"*": ["*"]},
        "source_schemes": ["https", "http", "ssh", "git", "file"],
        # Local containers are processes of this machine's user: there is no namespace to be root in.
        "user_namespaces": False,
        "max_timeout": "7d",
        # The author's own disk: nobody has asked for anything on it to be deleted.
        "retention": "never",
        "cache_retention": "never",
        "max_services": 16,
        "max_resources": {"cpu": 1024, "memory": "1Ti", "ephemeral-storage": "100Ti"},
        "max_service_resources": {"cpu": 1024, "memory": "1Ti", "ephemeral-storage": "100Ti"},
    }
    return parse_policy(fields | changes)
