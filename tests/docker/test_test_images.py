"""The images that the cluster tests use: services that answer as any user, and jobs that need no package index."""

import re

from tests.docker.dockerfile import ROOT
from tests.docker.pods import CLUSTER_TEST, JOB, SERVICES, STRANGER, probe

pytestmark = CLUSTER_TEST


def test_the_services_run_as_any_user_and_answer() -> None:
    facts = probe(SERVICES, "services", STRANGER)
    assert facts["redis"] == "+PONG\r\n"
    assert facts["nginx"] == "served"
    assert "Healthy" in facts["prometheus"]


def test_jobs_find_every_package_that_they_install() -> None:
    lock = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    locked = [line.removesuffix("\\").strip() for line in lock.splitlines() if re.match(r"\S+==", line)]
    foreign = re.findall(r'"([\w-]+==[\d.]+)"', (ROOT / "examples" / "foreign" / "run.py").read_text(encoding="utf-8"))
    assert len(foreign) > 5
    facts = probe(JOB, "job", STRANGER, "\n".join(locked), *foreign)
    assert facts == {"problems": [], "missing": []}
