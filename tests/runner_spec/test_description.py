import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_spec.description import FolderSource, GitSource, json_schema, parse_description
from runner_spec.problem import InvalidDescription, Problem
from tests.runner_spec.descriptions import LEAST, WHOLE, descriptions, least, whole


def problems_of(data: object) -> tuple[Problem, ...]:
    with pytest.raises(InvalidDescription) as caught:
        parse_description(data)
    return caught.value.problems


def test_the_whole_language_is_read() -> None:
    job = parse_description(WHOLE)
    assert isinstance(job.source, GitSource)
    assert (job.source.git, job.source.ref, job.source.depth) == ("https://git.example/acme/app.git", "main", 1)
    assert job.services[0].ready is not None
    assert (job.services[0].ready.tcp, job.services[0].ready.timeout) == (5432, 60)
    assert (job.timeout, job.retry.attempts, str(job.resources.memory)) == (1800, 1, "1Gi")
    assert job.secrets["NPM_TOKEN"].key == "token"
    assert [artifact.when for artifact in job.artifacts] == ["success", "always"]


def test_the_least_job_has_the_defaults() -> None:
    job = parse_description(LEAST)
    assert (job.name, job.source, job.timeout, job.retry.attempts, job.services) == ("job", None, None, 1, ())


def test_a_folder_is_a_source_too() -> None:
    job = parse_description(least(source={"folder": ".", "files": ["a/b.py"]}))
    assert job.source == FolderSource(folder=".", files=("a/b.py",))


def test_unnamed_steps_are_numbered_by_their_place() -> None:
    job = parse_description(least(steps=[{"run": "a"}, {"name": "b", "run": "b"}, {"run": "c"}], after=[{"run": "d"}]))
    assert job.titled_steps() == (("step-1", "a"), ("b", "b"), ("step-3", "c"))
    assert job.titled_after() == (("after-1", "d"),)


def test_a_description_cannot_be_changed() -> None:
    job = parse_description(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        job.image = "other"  # type: ignore[misc]


def test_every_problem_is_reported_at_once() -> None:
    found = problems_of(
        {
            "nam": "x",
            "image": "Bad Image",
            "env": {"A": True},
            "steps": [{"name": "a", "run": ""}, {"name": "a", "run": "x"}],
            "artifacts": [{"name": "w", "paths": ["/x"]}],
            "timeout": "soon",
        }
    )
    assert [problem.path for problem in found] == [
        "nam",
        "image",
        "env.A",
        "steps[0].run",
        "steps[1].name",
        "artifacts[0].paths[0]",
        "timeout",
    ]
    assert all(problem.message and problem.remedy for problem in found)
    with pytest.raises(InvalidDescription, match=r"7 problems\n  nam: this key is unknown; did you mean name\?"):
        parse_description(
            {"nam": "x"} | least(image="Bad Image", timeout="soon") | {"env": {"A": True, "B": 1, "C": 2}, "x": 1}
        )


RULES: list[tuple[str, dict[str, Any], str, str]] = [
    # what, change of the least job, path, words of message or remedy
    ("unknown key", {"comand": 1}, "comand", "known keys here"),
    ("unknown nested key", {"source": {"git": "https://h.example/a", "dept": 1}}, "source.dept", "did you mean depth?"),
    (
        "unknown key in a list",
        {"services": [{"name": "a", "image": "a", "imag": 1}]},
        "services[0].imag",
        "did you mean image?",
    ),
    ("no image", {"image": None}, "image", "a required key is missing"),
    ("no steps", {"steps": []}, "steps", "at least 1 is needed"),
    ("blank script", {"steps": [{"run": " \n"}]}, "steps[0].run", "empty"),
    ("NUL in a script", {"steps": [{"run": "a\0b"}]}, "steps[0].run", "NUL"),
    ("surrogate in a script", {"steps": [{"run": "a\ud800"}]}, "steps[0].run", "surrogate"),
    ("step name with a newline", {"steps": [{"name": "a\nb", "run": "x"}]}, "steps[0].name", "one line"),
    ("number as a script", {"steps": [{"run": 1}]}, "steps[0].run", 'write "1"'),
    (
        "same name in steps and after",
        {"steps": [{"name": "a", "run": "x"}], "after": [{"name": "a", "run": "x"}]},
        "after[0].name",
        "the same as steps[0].name",
    ),
    ("boolean variable", {"env": {"A": True}}, "env.A", 'write "true", with quotes'),
    ("number as variable", {"env": {"A": 3.1}}, "env.A", 'write "3.1", with quotes'),
    ("null variable", {"env": {"A": None}}, "env.A", 'write ""'),
    ("variable name", {"env": {"1A": "x"}}, 'env["1A"]', "not starting with a digit"),
    ("reserved variable", {"env": {"DYNAPOD_JOB": "x"}}, "env.DYNAPOD_JOB", "dynapod's own"),
    ("NUL in a variable", {"env": {"A": "\0"}}, "env.A", "NUL"),
    ("huge variable", {"env": {"A": "x" * 131_072}}, "env.A", "131072 bytes; 130048 are allowed"),
    ("env as a list", {"env": ["A=1"]}, "env", "a mapping is expected"),
    (
        "secret also in env",
        {"env": {"A": "x"}, "secrets": {"A": {"secret": "s", "key": "k"}}},
        "secrets.A",
        "in env and in secrets",
    ),
    ("secret without key", {"secrets": {"A": {"secret": "s"}}}, "secrets.A.key", "missing"),
    (
        "secret name",
        {"secrets": {"A": {"secret": "S_s", "key": "k"}}},
        "secrets.A.secret",
        "no name of a Kubernetes Secret",
    ),
    ("secret key", {"secrets": {"A": {"secret": "s", "key": "a/b"}}}, "secrets.A.key", "no key"),
    ("image", {"image": "Python:3"}, "image", "lower case"),
    ("image with a space", {"image": "a b"}, "image", "no image reference"),
    ("both sources", {"source": {"git": "https://h.example/a", "folder": "."}}, "source.folder", "both git and folder"),
    ("no source", {"source": {}}, "source.git", "missing"),
    ("password in the URL", {"source": {"git": "https://u:hunter2@h.example/a"}}, "source.git", "name a Secret"),
    ("remote helper", {"source": {"git": "ext::sh -c id"}}, "source.git", "no git URL"),
    ("option as URL", {"source": {"git": "--upload-pack=id"}}, "source.git", "no git URL"),
    ("option as ref", {"source": {"git": "https://h.example/a", "ref": "--x"}}, "source.ref", "no git ref"),
    ("negative depth", {"source": {"git": "https://h.example/a", "depth": -1}}, "source.depth", "0 or more"),
    ("depth as text", {"source": {"git": "https://h.example/a", "depth": "1"}}, "source.depth", "whole number"),
    ("file leaves the folder", {"source": {"folder": ".", "files": ["../x"]}}, "source.files[0]", ".."),
    ("service name", {"services": [{"name": "My_DB", "image": "a"}]}, "services[0].name", "DNS label"),
    ("reserved service name", {"services": [{"name": "run", "image": "a"}]}, "services[0].name", "reserved"),
    (
        "duplicate service",
        {"services": [{"name": "a", "image": "a"}, {"name": "a", "image": "a"}]},
        "services[1].name",
        "the same as services[0].name",
    ),
    (
        "two probes",
        {"services": [{"name": "a", "image": "a", "ready": {"tcp": 1, "http": "http://a/"}}]},
        "services[0].ready",
        "exactly one",
    ),
    (
        "no probe",
        {"services": [{"name": "a", "image": "a", "ready": {"timeout": 1}}]},
        "services[0].ready",
        "none of tcp",
    ),
    (
        "foreign probe",
        {"services": [{"name": "a", "image": "a", "ready": {"http": "http://b/"}}]},
        "services[0].ready.http",
        "none of this job's services",
    ),
    (
        "port",
        {"services": [{"name": "a", "image": "a", "ready": {"tcp": 65536}}]},
        "services[0].ready.tcp",
        "65535 or less",
    ),
    ("cache template", {"cache": [{"key": "a-{{ date() }}", "paths": ["x"]}]}, "cache[0].key", "no other function"),
    (
        "cache template in fallback",
        {"cache": [{"key": "a", "fallback": ["{{ hash('x') }}"], "paths": ["x"]}]},
        "cache[0].fallback[0]",
        "literal prefix",
    ),
    (
        "duplicate cache",
        {"cache": [{"key": "a", "paths": ["x"]}, {"key": "a", "paths": ["y"]}]},
        "cache[1].key",
        "the same as cache[0].key",
    ),
    ("absolute cache path", {"cache": [{"key": "a", "paths": ["/root"]}]}, "cache[0].paths[0]", "absolute"),
    ("cache path leaves home", {"cache": [{"key": "a", "paths": ["~/../x"]}]}, "cache[0].paths[0]", ".."),
    ("home of another", {"cache": [{"key": "a", "paths": ["~root/x"]}]}, "cache[0].paths[0]", "~/"),
    ("absolute glob", {"artifacts": [{"name": "a", "paths": ["!/x", "y"]}]}, "artifacts[0].paths[0]", "absolute"),
    (
        "glob leaves the workspace",
        {"artifacts": [{"name": "a", "paths": ["x/../../y"]}]},
        "artifacts[0].paths[0]",
        "..",
    ),
    ("only exclusions", {"artifacts": [{"name": "a", "paths": ["!x"]}]}, "artifacts[0].paths", "all patterns exclude"),
    ("no paths", {"artifacts": [{"name": "a", "paths": []}]}, "artifacts[0].paths", "at least 1"),
    (
        "duplicate artifact",
        {"artifacts": [{"name": "a", "paths": ["x"]}, {"name": "a", "paths": ["y"]}]},
        "artifacts[1].name",
        "the same as",
    ),
    ("artifact name", {"artifacts": [{"name": "a/b", "paths": ["x"]}]}, "artifacts[0].name", "no artifact name"),
    (
        "when",
        {"artifacts": [{"name": "a", "paths": ["x"], "when": "sucess"}]},
        "artifacts[0].when",
        "'success', 'failure' or 'always'",
    ),
    ("zero timeout", {"timeout": 0}, "timeout", "between 1s and 30d"),
    ("timeout", {"timeout": "1 hour"}, "timeout", "write 90s, 30m"),
    ("attempts", {"retry": {"attempts": 0}}, "retry.attempts", "1 or more"),
    ("resources", {"resources": {"memory": "lots"}}, "resources.memory", "not a quantity"),
    ("job name", {"name": "a\nb"}, "name", "no job name"),
]


@pytest.mark.parametrize(("change", "path", "words"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_a_broken_rule_is_named_with_its_place_and_remedy(change: dict[str, Any], path: str, words: str) -> None:
    (problem,) = problems_of(least(**change))
    assert problem.path == path
    assert words in f"{problem.message}; {problem.remedy}"
    assert problem.remedy
    json.dumps(problem.as_dict()).encode()
    str(problem).encode()


def test_a_key_that_is_no_text_is_refused() -> None:
    data: dict[object, object] = {1: "x"}
    data.update(LEAST)
    (problem,) = problems_of(data)
    assert (problem.path, problem.message) == ("[1]", "a key must be a text")


def test_a_password_is_not_repeated() -> None:
    (problem,) = problems_of(least(source={"git": "https://u:hunter2@h.example/a"}))
    assert "hunter2" not in str(problem)


def test_long_values_are_shortened() -> None:
    (problem,) = problems_of(least(image="A" * 10_000))
    assert len(str(problem)) < 400


@pytest.mark.parametrize("data", [None, [], "x", 1, True])
def test_only_a_mapping_is_a_description(data: object) -> None:
    (problem,) = problems_of(data)
    assert "mapping" in problem.message


def test_a_script_beyond_the_annotations_is_refused_with_both_sizes() -> None:
    (problem,) = problems_of(least(steps=[{"run": "x" * 2**20}]))
    assert problem.path == "steps"
    assert "262144" in problem.message
    assert "repository" in problem.remedy
    size = int(next(word for word in problem.message.split() if word.isdigit()))
    assert 2**20 < size < 2**20 + 16_384


def test_a_script_of_200_000_bytes_is_fine() -> None:
    assert len(parse_description(least(steps=[{"run": "x" * 200_000}])).steps[0].run) == 200_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*WHOLE, "run", "name", "paths", "ready", "git"]) | st.text(max_size=3),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_no_data_does_worse_than_a_refusal(data: object) -> None:
    try:
        parse_description(data)
    except InvalidDescription as error:
        str(error).encode()


@given(descriptions)
def test_what_is_valid_is_valid_by_the_schema_too(data: dict[str, Any]) -> None:
    parse_description(data)
    VALIDATOR.validate(data)


SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$id"].startswith("urn:")
    assert SCHEMA["title"]
    assert SCHEMA["description"]
    assert SCHEMA["additionalProperties"] is False


def test_the_schema_documents_every_key() -> None:
    models = [SCHEMA, *SCHEMA["$defs"].values()]
    undocumented = [
        f"{model['title']}.{key}"
        for model in models
        for key, value in model.get("properties", {}).items()
        if not value.get("description")
    ]
    assert undocumented == []
    assert all(model.get("description") for model in models)


@pytest.mark.parametrize("data", [WHOLE, LEAST, whole(timeout=90), least(resources={"cpu": 0.5})])
def test_the_schema_accepts_good_examples(data: dict[str, Any]) -> None:
    VALIDATOR.validate(data)
    parse_description(data)


SCHEMA_CATCHES = [
    "unknown key",
    "unknown nested key",
    "no image",
    "no steps",
    "boolean variable",
    "variable name",
    "reserved variable",
    "secret without key",
    "image",
    "service name",
    "two probes",
    "no probe",
    "port",
    "zero timeout",
    "timeout",
    "when",
    "attempts",
    "resources",
    "absolute cache path",
    "artifact name",
    "job name",
    "negative depth",
    "env as a list",
]


@pytest.mark.parametrize("what", SCHEMA_CATCHES)
def test_the_schema_refuses_bad_examples(what: str) -> None:
    (change,) = [rule[1] for rule in RULES if rule[0] == what]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(least(**change))
