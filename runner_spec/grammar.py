"""The grammar of single values: names, images, references, paths. Each check returns the value or explains itself.

The checks raise `PydanticCustomError` with the remedy in its context, so that one pass of pydantic collects every
problem of a document; `diagnosis` turns them into `Problem`s.
"""

import re
from typing import Final, NoReturn
from urllib.parse import SplitResult, urlsplit

from pydantic_core import PydanticCustomError

from runner_spec.anatomy import RESERVED_CONTAINERS

DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ENV_RESERVED_PREFIX: Final = "DYNAPOD_"
SECRET_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
JOB_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._/-]{0,61}[A-Za-z0-9])?")
ARTIFACT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The grammar of distribution/reference (regexp.go): [domain[:port]/]path[:tag][@digest].
IMAGE: Final = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_SCP_LIKE: Final = re.compile(r"(?:[A-Za-z0-9_.-]+@)?[A-Za-z0-9_.-]+:(?!//)[^\s]+")
_GIT_SCHEMES: Final = frozenset({"https", "http", "ssh", "git", "file"})
# git-check-ref-format(1), and no leading dash: git would read it as an option.
_REF_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(?:/|$)|^[-/.]|[/.]$")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_CACHE_HASH: Final = re.compile(r"\{\{\s*hash\(\s*'[^']+'(?:\s*,\s*'[^']+')*\s*\)\s*\}\}")
_TITLE_CHARACTERS: Final = 100
_CACHE_KEY_BYTES: Final = 512
# execve(2): MAX_ARG_STRLEN is 128 KiB for each `NAME=value`, its final NUL included; 1 KiB is left for the name.
_WORD_BYTES: Final = 127 * 1024


def refuse(message: str, remedy: str, kind: str = "grammar") -> NoReturn:
    """Refuse a value.

    Raises:
        PydanticCustomError: always; pydantic adds the place.
    """
    raise PydanticCustomError(kind, "{reason}", {"reason": message, "remedy": remedy})


def _check_transportable(value: str, what: str) -> None:
    """Refuse what neither a process nor an annotation can carry."""
    if "\0" in value:
        refuse(f"{what} holds a NUL character, which no process can receive", "remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(f"{what} holds half of a surrogate pair, which is no Unicode text", "save the document as UTF-8")


def check_text(value: str) -> str:
    """A variable's value, or a word of a command: no NUL, and no longer than Linux passes on."""
    _check_transportable(value, "the text")
    if len(value.encode()) > _WORD_BYTES:
        refuse(
            f"the text takes {len(value.encode())} bytes; {_WORD_BYTES} are allowed",
            "keep it as a file in the repository",
        )
    return value


def check_script(value: str) -> str:
    """A step's script: not blank, no NUL."""
    _check_transportable(value, "the script")
    if not value.strip():
        refuse("the script is empty", "write at least one command, or remove the step")
    return value


def check_title(value: str) -> str:
    """A step's name: a line of text for people."""
    _check_transportable(value, "the name")
    if not value.strip() or len(value) > _TITLE_CHARACTERS or _CONTROL.search(value):
        refuse(
            "this is no step name", f"write one line of 1 to {_TITLE_CHARACTERS} characters without control characters"
        )
    return value


def check_job_name(value: str) -> str:
    """The job's name."""
    if not JOB_NAME.fullmatch(value):
        refuse(
            "this is no job name",
            "use 1 to 63 letters, digits, spaces and . _ / -, with a letter or digit at both ends",
        )
    return value


def check_container_name(value: str) -> str:
    """A service's name: container name and host name at once."""
    if not DNS_LABEL.fullmatch(value):
        refuse("this is no DNS label", "use 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends")
    if value in RESERVED_CONTAINERS or value == "localhost":
        refuse(f"the name {value} is reserved", "choose another name for the service")
    return value


def check_namespace(value: str) -> str:
    """A Kubernetes namespace."""
    if not DNS_LABEL.fullmatch(value):
        refuse("this is no namespace", "use 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends")
    return value


def check_env_name(value: str) -> str:
    """A variable's name that every shell can use."""
    if not ENV_NAME.fullmatch(value):
        refuse("this is no variable name", "use letters, digits and _, not starting with a digit")
    if value.startswith(ENV_RESERVED_PREFIX):
        refuse(f"names starting with {ENV_RESERVED_PREFIX} are dynapod's own", "choose another name")
    return value


def check_secret_name(value: str) -> str:
    """The name of a Kubernetes Secret."""
    if len(value) > 253 or not DNS_SUBDOMAIN.fullmatch(value):  # noqa: PLR2004 - RFC 1123 subdomain
        refuse("this is no name of a Kubernetes Secret", "use a-z, 0-9, - and . as in `kubectl get secrets`")
    return value


def check_secret_key(value: str) -> str:
    """A key inside a Kubernetes Secret."""
    if not SECRET_KEY.fullmatch(value) or value in {".", ".."}:
        refuse("this is no key of a Kubernetes Secret", "use letters, digits, - _ and .")
    return value


def check_image(value: str) -> str:
    """A container image reference."""
    if len(value) > 512 or not IMAGE.fullmatch(value):  # noqa: PLR2004 - 255 of name, 128 of tag, a digest
        refuse("this is no image reference", "write name, name:tag or name@sha256:…; the name is in lower case")
    return value


def check_artifact_name(value: str) -> str:
    """An artifact's name: a segment of a URL."""
    if not ARTIFACT_NAME.fullmatch(value):
        refuse("this is no artifact name", "use 1 to 100 letters, digits and . _ -, starting with a letter or digit")
    return value


def _check_relative(path: str, remedy: str) -> None:
    _check_transportable(path, "the path")
    if not path.strip():
        refuse("the path is empty", remedy)
    if path.startswith(("/", "\\")):
        refuse("the path is absolute", remedy)
    if ".." in path.split("/"):
        refuse("the path leaves its folder by ..", remedy)


def check_relative_path(value: str) -> str:
    """A path below the source folder."""
    _check_relative(value, "write a path relative to the folder, such as src/main.py")
    return value


def check_glob(value: str) -> str:
    """A glob relative to the workspace; `!` excludes."""
    _check_relative(value.removeprefix("!"), 'write a path relative to the workspace, such as "dist/*.whl"')
    return value


def check_cache_path(value: str) -> str:
    """A path relative to the workspace, or to the home folder as `~/…`."""
    _check_relative(
        value.removeprefix("~/"),
        "write a path relative to the workspace, such as .cache/pip, or ~/… for the home folder",
    )
    if value.startswith("~") and not value.startswith("~/"):
        refuse("~ stands for the home folder only as ~/", "write ~/… , or ./~… for a file of that name")
    return value


def check_cache_key(value: str) -> str:
    """A cache key, maybe with `{{ hash('glob') }}`."""
    _check_cache_text(value)
    rest = _CACHE_HASH.sub("", value)
    if "{{" in rest or "}}" in rest:
        refuse(
            "the template in the key is not understood",
            "write {{ hash('requirements.txt') }}; no other function exists",
        )
    return value


def check_cache_prefix(value: str) -> str:
    """A fallback: a literal prefix of keys."""
    _check_cache_text(value)
    if "{{" in value:
        refuse(
            "a fallback is a literal prefix of keys", "remove the template: pip- matches every key starting with pip-"
        )
    return value


def _check_cache_text(value: str) -> None:
    _check_transportable(value, "the key")
    if not value.strip() or _CONTROL.search(value) or len(value.encode()) > _CACHE_KEY_BYTES:
        refuse("this is no cache key", f"write one line of 1 to {_CACHE_KEY_BYTES} bytes without control characters")


def git_scheme(url: str) -> str | None:
    """`https`, `http`, `ssh` (also for `git@host:path`), `git`, `file`; None when the URL is none of them."""
    parts = _split(url)
    if parts and parts.scheme in _GIT_SCHEMES and "://" in url:
        return parts.scheme
    return "ssh" if "://" not in url and "::" not in url and _SCP_LIKE.fullmatch(url) else None


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # an unbalanced IPv6 bracket, say
        return None


def check_git_url(value: str) -> str:
    """The URL of a git repository; never with a password in it."""
    _check_transportable(value, "the URL")
    if _CONTROL.search(value) or " " in value or value.startswith("-") or git_scheme(value) is None:
        refuse("this is no git URL", "write https://host/path.git or git@host:path.git")
    parts = _split(value)
    if parts and parts.scheme in {"https", "http"} and "@" in parts.netloc:
        refuse(
            "the URL holds a user name or password, which logs and manifests would show",
            "remove it and name a Secret: credentials: {secret: …}",
            kind="credentials_in_url",
        )
    if parts and parts.scheme and "://" in value and parts.scheme != "file" and not parts.hostname:
        refuse("the URL names no host", "write https://host/path.git")
    return value


def check_git_ref(value: str) -> str:
    """A branch, tag, commit or full ref."""
    _check_transportable(value, "the ref")
    if not value or len(value) > 255 or _REF_FORBIDDEN.search(value):  # noqa: PLR2004 - a file name's limit
        refuse("this is no git ref", "write a branch, a tag, a commit or a full ref such as refs/pull/7/head")
    return value


def check_http_probe(value: str) -> str:
    """The URL that answers when a service is ready."""
    _check_transportable(value, "the URL")
    parts = _split(value)
    bad = _CONTROL.search(value) or " " in value or not parts or parts.scheme not in {"http", "https"}
    if bad or not parts or not parts.hostname or "@" in parts.netloc:
        refuse(
            "this is no HTTP URL", "write http://NAME:PORT/PATH with the service's name, such as http://db:9200/health"
        )
    try:
        _ = parts.port
    except ValueError:
        refuse("the URL's port is no number from 1 to 65535", "write http://NAME:PORT/PATH")
    return value
