"""The job description: what a producer enqueues and an author writes in `dynapod.yaml`.

`parse_description` is the only way in: it reports every problem at once. The models below are also the published
documentation: `json_schema` turns their docstrings and field descriptions into a JSON Schema.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Strict, Tag, ValidationError

from runner_spec import diagnosis, grammar, rules
from runner_spec.duration import KeepSeconds, Seconds
from runner_spec.problem import InvalidDescription, Problem, shorten
from runner_spec.quantity import Bytes, Cpu

SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
# A URN, so that the schema belongs to no host.
SCHEMA_ID: Final = "urn:dynapod:job-description:1"

T = TypeVar("T")
# JSON knows lists only, and a frozen model needs tuples: the one conversion that strict mode would refuse.
Items = Annotated[tuple[T, ...], Strict(strict=False)]


def _pattern(pattern: str) -> dict[str, Any]:
    return {"pattern": f"^(?:{pattern})$"}


# Pydantic writes no rule for the keys of a mapping into the schema by itself.
ENV_NAMES: Final[dict[str, Any]] = {
    "propertyNames": _pattern(rf"(?!{grammar.ENV_RESERVED_PREFIX}){grammar.ENV_NAME.pattern}")
}
Text = Annotated[str, AfterValidator(grammar.check_text)]
EnvName = Annotated[str, AfterValidator(grammar.check_env_name)]
ImageName = Annotated[
    str, AfterValidator(grammar.check_image), Field(json_schema_extra=_pattern(grammar.IMAGE.pattern))
]
SecretName = Annotated[
    str, AfterValidator(grammar.check_secret_name), Field(json_schema_extra=_pattern(grammar.DNS_SUBDOMAIN.pattern))
]
SecretKey = Annotated[
    str, AfterValidator(grammar.check_secret_key), Field(json_schema_extra=_pattern(grammar.SECRET_KEY.pattern))
]
RelativePath = Annotated[str, AfterValidator(grammar.check_relative_path), Field(json_schema_extra=_pattern("[^/].*"))]
Glob = Annotated[str, AfterValidator(grammar.check_glob), Field(json_schema_extra=_pattern("!?[^/!].*"))]
CachePath = Annotated[str, AfterValidator(grammar.check_cache_path), Field(json_schema_extra=_pattern("[^/].*"))]
CacheKey = Annotated[str, AfterValidator(grammar.check_cache_key), Field(json_schema_extra={"minLength": 1})]
CachePrefix = Annotated[str, AfterValidator(grammar.check_cache_prefix), Field(json_schema_extra={"minLength": 1})]
Environment = dict[EnvName, Text]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


class SecretRef(_Model):
    """One value of a Kubernetes Secret in the jobs' namespace. The operator's policy says which ones may be used."""

    secret: SecretName = Field(description="Name of the Secret.", examples=["npm"])
    key: SecretKey = Field(description="Key inside the Secret.", examples=["token"])


class Credentials(_Model):
    """What opens a private repository: a Secret, seen by `checkout` alone."""

    secret: SecretName = Field(
        description="Secret with `username` and `password` (https), or `ssh-privatekey` and `known_hosts` (ssh).",
        examples=["git"],
    )


class GitSource(_Model):
    """A git repository, checked out into the workspace before the steps."""

    git: Annotated[str, AfterValidator(grammar.check_git_url)] = Field(
        description="URL of the repository: https://…, ssh://… or git@host:path. Never with a password in it.",
        examples=["https://git.example/acme/app.git"],
        max_length=2048,
    )
    ref: Annotated[str, AfterValidator(grammar.check_git_ref)] | None = Field(
        default=None,
        description="Branch, tag, commit (full or abbreviated) or full ref. Default: the remote's HEAD.",
        examples=["main", "v1.2.0", "refs/pull/7/head"],
    )
    depth: int = Field(default=1, ge=0, le=1_000_000, description="Commits of history; 0 is all of it.", examples=[1])
    submodules: bool = Field(default=False, description="Check out submodules too, recursively.")
    lfs: bool = Field(default=False, description="Fetch Git LFS files.")
    credentials: Credentials | None = Field(default=None, description="For private repositories.")


class FolderSource(_Model):
    """A local folder, copied into the workspace before the steps. Only for runs on the author's own machine."""

    folder: Text = Field(description="Path of the folder.", examples=["."], min_length=1)
    files: Items[RelativePath] | None = Field(
        default=None,
        description="Copy only these files (relative paths). Default: all but `.git` and `.dynapod`.",
        examples=[["setup.py", "src/app.py"]],
    )


def _source_kind(value: Any) -> str:  # noqa: ANN401 - a discriminator's input is anything
    folder = "folder" in value and "git" not in value if isinstance(value, Mapping) else isinstance(value, FolderSource)
    return "folder" if folder else "git"


Source = Annotated[
    Annotated[GitSource, Tag("git")] | Annotated[FolderSource, Tag("folder")], Discriminator(_source_kind)
]


class Resources(_Model):
    """What a container may use: both its request (for the scheduler) and its limit."""

    cpu: Cpu | None = Field(default=None, description="Cores.", examples=["500m", 2])
    memory: Bytes | None = Field(
        default=None, description="Memory; more ends the container as out of memory.", examples=["1Gi"]
    )
    ephemeral_storage: Bytes | None = Field(
        default=None,
        alias="ephemeral-storage",
        description="Disk: the workspace, the home folder, the logs and what the container writes elsewhere.",
        examples=["10Gi"],
    )


class Ready(_Model):
    """How to know that a service is up. Exactly one of `tcp`, `http` and `command`."""

    tcp: int | None = Field(
        default=None, ge=1, le=65535, description="A port that accepts connections.", examples=[5432]
    )
    http: Annotated[str, AfterValidator(grammar.check_http_probe)] | None = Field(
        default=None,
        description="A URL that answers 2xx or 3xx; its host is the service's name.",
        examples=["http://search:9200/health"],
        max_length=2048,
    )
    command: Items[Text] | None = Field(
        default=None,
        description="A command, run inside the service without a shell, that exits with 0.",
        examples=[["pg_isready", "-U", "postgres"]],
        min_length=1,
    )
    timeout: Seconds = Field(default=60, description="How long the service may take to start.", examples=["60s"])


class Service(_Model):
    """A container beside the job, such as a database. It listens at its name and at localhost."""

    name: Annotated[
        str, AfterValidator(grammar.check_container_name), Field(json_schema_extra=_pattern(grammar.DNS_LABEL.pattern))
    ] = Field(description="Host name under which the steps reach it.", examples=["db"])
    image: ImageName = Field(description="Container image.", examples=["postgres:16"])
    command: Items[Text] | None = Field(
        default=None, description="Replaces the image's entrypoint.", examples=[["redis-server"]], min_length=1
    )
    args: Items[Text] | None = Field(
        default=None, description="Replaces the image's arguments.", examples=[["--save", ""]]
    )
    env: Environment = Field(
        default={},
        description="Variables of this service.",
        json_schema_extra=ENV_NAMES,
        examples=[{"POSTGRES_PASSWORD": "x"}],
    )
    ready: Ready | None = Field(default=None, description="The steps wait for it. Default: started is enough.")
    resources: Resources = Field(default=Resources(), description="Default: the policy's.")


class Cache(_Model):
    """Folders kept from one job to the next: restored before the steps, saved after they succeeded."""

    key: CacheKey = Field(
        description="Name of the entry. `{{ hash('glob') }}` stands for the digest of the matching files.",
        examples=["pip-{{ hash('requirements.txt') }}"],
    )
    fallback: Items[CachePrefix] = Field(
        default=(),
        description="Prefixes, tried in order when no entry has the key.",
        examples=[["pip-"]],
        max_length=20,
    )
    paths: Items[CachePath] = Field(
        description="Relative to the workspace, or to the home folder as `~/…`.",
        examples=[[".cache/pip"]],
        min_length=1,
        max_length=100,
    )


class Step(_Model):
    """A script, run by the image's shell in the workspace; it fails when its exit code is not 0."""

    name: Annotated[str, AfterValidator(grammar.check_title)] | None = Field(
        default=None, description="Heading in the log. Default: step-1, step-2, ….", examples=["test"]
    )
    run: Annotated[str, AfterValidator(grammar.check_script)] = Field(description="The script.", examples=["pytest -q"])


class Artifact(_Model):
    """Files to keep under one name. A pattern that matches nothing fails the job unless `optional`."""

    name: Annotated[
        str,
        AfterValidator(grammar.check_artifact_name),
        Field(json_schema_extra=_pattern(grammar.ARTIFACT_NAME.pattern)),
    ] = Field(description="Name of the artifact.", examples=["wheel"])
    paths: Items[Glob] = Field(
        description="Globs relative to the workspace; `**` crosses folders, a leading `!` excludes.",
        examples=[["dist/*.whl", "!dist/*-dev.whl"]],
        min_length=1,
        max_length=100,
    )
    when: Literal["success", "failure", "always"] = Field(default="success", description="Upload after this end.")
    kind: Literal["file", "junit"] = Field(default="file", description="`junit`: also sum up the test results.")
    optional: bool = Field(default=False, description="Finding no file is no failure.")


class Retry(_Model):
    """How often the job may run when it fails itself. The platform's faults are retried by the operator's setting."""

    attempts: int = Field(default=1, ge=1, le=10, description="How many times the job may run in all.", examples=[2])


class JobDescription(_Model):
    """A job: an image, a source to check out, steps to run, files to keep."""

    name: Annotated[
        str, AfterValidator(grammar.check_job_name), Field(json_schema_extra=_pattern(grammar.JOB_NAME.pattern))
    ] = Field(default="job", description="Name for people, in lists and logs.", examples=["test"])
    image: ImageName = Field(description="Image in which the steps run.", examples=["python:3.12"])
    source: Source | None = Field(default=None, description="What to put into the workspace. Default: nothing.")
    env: Environment = Field(
        default={},
        description="Variables of the steps; values are strings.",
        json_schema_extra=ENV_NAMES,
        examples=[{"CI": "true"}],
    )
    secrets: dict[EnvName, SecretRef] = Field(
        default={},
        description="Variables of the steps whose values are Secrets; masked in the log.",
        json_schema_extra=ENV_NAMES,
        examples=[{"NPM_TOKEN": {"secret": "npm", "key": "token"}}],
    )
    services: Items[Service] = Field(default=(), description="Containers beside the steps.", max_length=16)
    cache: Items[Cache] = Field(default=(), description="Folders kept from one job to the next.", max_length=16)
    steps: Items[Step] = Field(description="Run in order, until one fails.", min_length=1, max_length=200)
    after: Items[Step] = Field(
        default=(), description="Run whatever happened; do not change the verdict.", max_length=200
    )
    artifacts: Items[Artifact] = Field(default=(), description="Files to keep.", max_length=100)
    timeout: Seconds | None = Field(
        default=None, description="Limit for all steps together. Default: the policy's.", examples=["30m", "1h30m", 90]
    )
    retry: Retry = Field(default=Retry(), description="Trying again after the job's own failure.")
    resources: Resources = Field(default=Resources(), description="Of the steps. Default: the policy's.")
    keep: KeepSeconds | None = Field(
        default=None,
        description="Leave the steps' container running for so long when they failed, for `kubectl exec`. "
        "Artifacts come after that. Default: it ends at once.",
        examples=["on-failure 1h"],
    )

    def titled_steps(self) -> tuple[tuple[str, str], ...]:
        """`(name, script)` of every step, unnamed ones as `step-1`, `step-2`, … by their place."""
        return _titled(self.steps, "step")

    def titled_after(self) -> tuple[tuple[str, str], ...]:
        """`(name, script)` of every step in `after`, unnamed ones as `after-1`, `after-2`, … by their place."""
        return _titled(self.after, "after")


def _titled(steps: tuple[Step, ...], word: str) -> tuple[tuple[str, str], ...]:
    return tuple((step.name or f"{word}-{place}", step.run) for place, step in enumerate(steps, 1))


def parse_description(data: object) -> JobDescription:
    """Read a job description: JSON-pure data, as from `document.load_document` or the queue.

    Raises:
        InvalidDescription: with every problem found, in the order of their paths' first appearance in the data.
    """
    if not isinstance(data, Mapping):
        remedy = "write keys such as image and steps at the top level"
        raise InvalidDescription([Problem("", "a job description is a mapping", shorten(data), remedy)])
    problems: list[Problem] = []
    description = None
    try:
        description = JobDescription.model_validate(data)
    except ValidationError as error:
        problems += diagnosis.diagnose(error, JobDescription)
    broken = rules.check(data)
    # `source.folder` beside `git` is an unknown key to the model: the rule knows better what is wrong.
    settled = {problem.path for problem in broken} & {"source.folder"}
    problems = [problem for problem in problems if problem.path not in settled] + broken
    if problems or description is None:
        raise InvalidDescription(diagnosis.in_document_order(problems, data))
    return description


def json_schema() -> dict[str, Any]:
    """The description's JSON Schema (draft 2020-12), complete with titles, descriptions and examples."""
    schema = JobDescription.model_json_schema(by_alias=True)
    heading = {
        "$schema": SCHEMA_DIALECT,
        "$id": SCHEMA_ID,
        "title": "dynapod job description",
        "description": "A job that dynapod runs as a Kubernetes pod, written in YAML or JSON.",
    }
    ready = schema["$defs"]["Ready"]
    ready["oneOf"] = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in rules.PROBES]
    return {**heading, **{key: value for key, value in schema.items() if key not in heading}}
