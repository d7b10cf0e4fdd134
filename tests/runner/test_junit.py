from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.junit import FAILED_LIMIT, JUnitTotals
from runner_spec.report import JUnitReport


def totals(path: Path, text: str | bytes) -> tuple[JUnitReport, str]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    found = JUnitTotals()
    problem = found.add(path)
    return found.report(), problem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "junit.xml"


def test_cases_are_counted_not_believed(path: Path) -> None:
    report, problem = totals(
        path,
        """<testsuites tests="1000"><testsuite tests="500"><properties/>
        <testcase name="a" time="1,000.5"/><testcase classname="C" name="b" time="nan">
        <failure/><system-out>x</system-out></testcase>
        <testsuite><testcase name="c" time="-1"><skipped/></testcase></testsuite>
        <testcase name="d"><error/><failure/></testcase><testcase/></testsuite></testsuites>""",
    )
    assert problem == ""
    assert report == JUnitReport(5, 1, 1, 1, 1000.5, ("C::b", "d"))


def test_elements_of_these_names_elsewhere_do_not_count(path: Path) -> None:
    report, _ = totals(path, "<testsuite><failure/><testcase><a><failure/><testcase/></a></testcase></testsuite>")
    assert (report.tests, report.failures) == (1, 0)


def test_namespaces_are_looked_through(path: Path) -> None:
    report, _ = totals(path, '<j:testsuite xmlns:j="x"><j:testcase name="a"><j:failure/></j:testcase></j:testsuite>')
    assert (report.tests, report.failures) == (1, 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no element found"),
        ("<testsuite><testcase/>", "no element found"),
        ("<a></b>", "mismatched tag"),
        (b"\xff\xfe\x00", "not well-formed XML"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "klingon"),
        ('<!DOCTYPE a [<!ENTITY b "' + "x" * 1000 + '"><!ENTITY c "&b;&b;">]><a>&c;</a>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        ("<a>" * 1000, "nested deeper"),
        ('<a b="' + "x" * 10_000_000, "one tag is larger"),
    ],
)
def test_hostile_files_become_a_message(path: Path, text: str | bytes, problem: str) -> None:
    _, said = totals(path, text)
    assert problem in said


def test_what_was_read_before_the_damage_counts(path: Path) -> None:
    report, problem = totals(path, '<testsuite><testcase name="a"><failure/></testcase><oops')
    assert (report.tests, report.failures) == (1, 1)
    assert problem


def test_a_file_of_many_megabytes_of_text_is_no_large_tag(path: Path) -> None:
    report, problem = totals(
        path, "<testsuite><testcase><system-out>" + "x" * 9_000_000 + "</system-out></testcase></testsuite>"
    )
    assert (report.tests, problem) == (1, "")


def test_the_list_of_failed_cases_is_bounded(path: Path) -> None:
    report, _ = totals(path, "<s>" + '<testcase name="%s"><failure/></testcase>' % ("n" * 999) * 60 + "</s>")
    assert (report.failures, len(report.failed), len(report.failed[0])) == (60, FAILED_LIMIT, 300)


def test_an_unreadable_file_is_a_message(tmp_path: Path) -> None:
    assert "cannot be read" in JUnitTotals().add(tmp_path / "absent")


@given(st.binary(max_size=300))
def test_noise_never_raises(data: bytes) -> None:
    import tempfile  # noqa: PLC0415 - hypothesis cannot use tmp_path

    with tempfile.NamedTemporaryFile() as file:
        totals(Path(file.name), data)
