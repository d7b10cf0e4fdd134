import hashlib
import io
import os
import shutil
import tarfile
import time
import zlib
from pathlib import Path

import pytest

from runner import compression
from runner.cache import KEYS_FILE, Caches, member_of
from runner.compression import GZIP, ZSTD
from runner.gateway import Gateway
from runner.retry import RetryPolicy
from runner.tree import EscapeError
from runner_spec.plan import CachePlan
from runner_spec.report import CacheReport
from tests.runner.gateway_server import GatewayServer
from tests.runner.pod import Pod

FORMATS = [GZIP, *([ZSTD] if shutil.which("zstd") else [])]
PIP = CachePlan("pip-{{ hash('requirements.txt') }}", (".cache/pip", "~/.local"), ("pip-",))


@pytest.fixture(params=FORMATS)
def archive_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(compression, "best_format", lambda: request.param)
    return str(request.param)


def client(pod: Pod) -> Gateway:
    assert pod.gateway
    return Gateway(pod.gateway, pod.root / "token", RetryPolicy(0.01, 3))


def save(pod: Pod, *plans: CachePlan) -> list[CacheReport]:
    caches, gateway = Caches(plans, pod.environment), client(pod)
    reports = caches.save(caches.kept_keys(), gateway, time.monotonic() + 60)
    gateway.close()
    return list(reports)


def restore(pod: Pod, *plans: CachePlan) -> list[CacheReport]:
    gateway = client(pod)
    reports = Caches(plans, pod.environment).restore(lambda: gateway)
    gateway.close()
    return list(reports)


def another(pod: Pod, name: str = "second") -> Pod:
    return Pod(pod.root.parent / name, pod.gateway)


def test_what_one_job_saves_another_restores(pod: Pod, gateway: GatewayServer, archive_format: str) -> None:
    pod.write({"requirements.txt": "a", ".cache/pip/wheel": "w" * 100_000, ".cache/pip/sub/x": "x"})
    pod.write({".local/bin/tool": "t"}, folder="home")
    (saved,) = save(pod, PIP)
    assert saved.result == "saved"
    assert saved.size == gateway.caches[saved.key][0].stat().st_size - 32
    assert gateway.caches[saved.key][1] == archive_format
    assert saved.key == "pip-" + hashlib.sha256(b"requirements.txt\0" + hashlib.sha256(b"a").digest()).hexdigest()

    fresh = another(pod)
    fresh.write({"requirements.txt": "a"})
    (restored,) = restore(fresh, PIP)
    assert (restored.result, restored.key, restored.size) == ("hit", saved.key, saved.size)
    assert (fresh.workspace / ".cache/pip/wheel").read_text() == "w" * 100_000
    assert (fresh.home / ".local/bin/tool").read_text() == "t"
    assert sorted(path.name for path in fresh.workspace.iterdir()) == [".cache", "requirements.txt"]
    assert [path.name for path in fresh.home.iterdir()] == [".local"]


def test_another_key_falls_back_to_the_newest_entry_with_the_prefix(pod: Pod) -> None:
    for version in ("1", "2"):
        pod.write({"requirements.txt": version, ".cache/pip/x": version})
        assert save(pod, PIP)[0].result == "saved"
    fresh = another(pod)
    fresh.write({"requirements.txt": "3"})
    (report,) = restore(fresh, PIP)
    assert report.result == "fallback"
    assert report.message.startswith("from pip-")
    assert (fresh.workspace / ".cache/pip/x").read_text() == "2"


def test_no_entry_is_a_miss(pod: Pod) -> None:
    assert [report.result for report in restore(pod, PIP)] == ["miss"]


def test_an_existing_key_is_not_saved_again(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({".cache/pip/x": "1"})
    save(pod, PIP)
    assert save(pod, PIP)[0].result == "unchanged"
    assert [line.split()[0] for line in gateway.requests] == ["HEAD", "PUT", "HEAD"]


def test_a_race_lost_against_another_job_is_no_failure(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({".cache/pip/x": "1"})
    save(pod, PIP)
    gateway.faults = [("HEAD", 404)]
    assert save(pod, PIP)[0].result == "unchanged"


def test_nothing_to_save_is_skipped(pod: Pod, gateway: GatewayServer) -> None:
    assert save(pod, PIP)[0].result == "skipped"
    assert gateway.requests == []


def test_the_key_is_the_one_resolved_at_checkout(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({"requirements.txt": "a"})
    (missed,) = restore(pod, PIP)
    pod.write({"requirements.txt": "changed by the job", ".cache/pip/x": "1"})
    assert save(pod, PIP)[0].key == missed.key
    assert list(gateway.caches) == [missed.key]


@pytest.mark.parametrize("text", ["not json", "[]", "[1]", "{}", '["a", "b"]'])
def test_a_damaged_key_file_is_ignored(pod: Pod, text: str) -> None:
    pod.write({KEYS_FILE: text}, folder="state")
    pod.write({".cache/pip/x": "1"})
    assert save(pod, PIP)[0].key.startswith("pip-")


def test_an_existing_folder_is_merged_and_its_files_replaced(pod: Pod) -> None:
    pod.write({".cache/pip/sub/x": "cached", ".cache/pip/sub/new": "cached"})
    save(pod, PIP)
    fresh = another(pod)
    fresh.write({".cache/pip/sub/x": "in the repository", ".cache/pip/sub/own": "in the repository"})
    assert restore(fresh, PIP)[0].result == "hit"
    folder = fresh.workspace / ".cache/pip/sub"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "x": "cached",
        "new": "cached",
        "own": "in the repository",
    }


def test_read_only_folders_as_in_a_go_module_cache_come_back(pod: Pod) -> None:
    plan = CachePlan("go", ("~/go",))
    pod.write({"go/mod/m@v1/x.go": "1"}, folder="home")
    for path in ("go/mod/m@v1", "go/mod", "go"):
        (pod.home / path).chmod(0o555)
    fresh = another(pod)
    try:
        assert save(pod, plan)[0].result == "saved"
        assert restore(fresh, plan)[0].result == "hit"
        assert (fresh.home / "go/mod/m@v1/x.go").read_text() == "1"
        assert (fresh.home / "go").stat().st_mode & 0o777 == 0o555
    finally:
        for home in (pod.home, fresh.home):  # so that pytest can remove them
            for path in ("go", "go/mod", "go/mod/m@v1"):
                (home / path).chmod(0o755)


def test_the_whole_workspace_can_be_a_cache(pod: Pod) -> None:
    plan = CachePlan("all", (".",))
    pod.write({"a/b": "1", "c": "2"})
    save(pod, plan)
    fresh = another(pod)
    fresh.write({"a/own": "3"})
    assert restore(fresh, plan)[0].result == "hit"
    assert sorted(str(p.relative_to(fresh.workspace)) for p in fresh.workspace.rglob("*")) == ["a", "a/b", "a/own", "c"]


# --- damage: a warning, no trace, and the job goes on -----------------------------------------------------------------


def damaged(pod: Pod, capsys: pytest.CaptureFixture[str], plan: CachePlan = PIP) -> str:
    fresh = another(pod, "damaged")
    fresh.write({"keep": "me"})
    (report,) = restore(fresh, plan)
    assert report.result == "failed"
    assert sorted(path.name for path in fresh.workspace.iterdir()) == ["keep"]
    assert list(fresh.home.iterdir()) == []
    assert "warning: cache" in capsys.readouterr().out
    return report.message


@pytest.mark.usefixtures("archive_format")
@pytest.mark.parametrize("place", [0, 2000, -40, -1])
def test_a_flipped_byte_is_recognised(
    pod: Pod, gateway: GatewayServer, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    pod.write({".cache/pip/x": os.urandom(5000)})
    (saved,) = save(pod, PIP)
    file = gateway.caches[saved.key][0]
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    damaged(pod, capsys)


@pytest.mark.usefixtures("archive_format")
@pytest.mark.parametrize("size", [0, 31, 32, 1000, -33, -1])
def test_a_truncated_entry_is_recognised(
    pod: Pod, gateway: GatewayServer, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    pod.write({".cache/pip/x": os.urandom(5000)})
    (saved,) = save(pod, PIP)
    file = gateway.caches[saved.key][0]
    file.write_bytes(file.read_bytes()[:size])
    damaged(pod, capsys)


def stored(gateway: GatewayServer, key: str, data: bytes, form: str = GZIP) -> None:
    """A correctly sealed entry with any content."""
    file = gateway.new_file()
    file.write_bytes(data + hashlib.sha256(data).digest())
    gateway.caches[key] = (file, form)


def packed(*members: tuple[str, bytes], **fields: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return zlib.compress(buffer.getvalue(), wbits=31)


PLAIN = CachePlan("k", (".cache/pip",))


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (packed(("workspace/../../evil", b"")), GZIP),
        (packed(("/etc/evil", b"")), GZIP),
        (packed(("workspace/.cache/pip/dev", b""), type=tarfile.CHRTYPE), GZIP),
        (packed(("workspace/.cache/pip/ok", b"1"), ("workspace/src/evil.py", b"1")), GZIP),
        (b"this is no archive", GZIP),
        (zlib.compress(b"x" * 512, wbits=31), GZIP),
        (packed(("workspace/.cache/pip/ok", b"1")) + b"more", GZIP),
        (b"this is no archive", ZSTD),
        (b"", ZSTD),
        (packed(("workspace/.cache/pip/ok", b"1")), "tar.rar"),
        (packed(("workspace/.cache/pip/ok", b"1")), ""),
    ],
    ids=["climbing", "absolute", "device", "beside", "noise", "cut", "more", "zstd-noise", "zstd-empty", "rar", "none"],
)
def test_an_unsafe_or_foreign_archive_is_refused_whole(
    pod: Pod, gateway: GatewayServer, capsys: pytest.CaptureFixture[str], data: bytes, form: str
) -> None:
    stored(gateway, "k", data, form)
    damaged(pod, capsys, PLAIN)
    assert not (pod.root.parent / "evil").exists()


def test_a_decompression_bomb_is_written_as_a_hole_and_not_held_in_memory(pod: Pod, gateway: GatewayServer) -> None:
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    info = tarfile.TarInfo("workspace/.cache/pip/zeros")
    info.size = 128 << 20
    pieces = [compressor.compress(info.tobuf())]
    pieces += [compressor.compress(bytes(1 << 20)) for _ in range(128)]
    pieces += [compressor.compress(bytes(1024)), compressor.flush()]
    stored(gateway, "k", b"".join(pieces))
    (report,) = restore(pod, PLAIN)
    assert report.result == "hit"
    found = (pod.workspace / ".cache/pip/zeros").stat()
    assert found.st_size == 128 << 20
    assert found.st_blocks * 512 < 16 << 20


def test_a_zstd_archive_without_zstd_names_the_remedy(
    pod: Pod, gateway: GatewayServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(gateway, "k", b"\x28\xb5\x2f\xfd", ZSTD)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install zstd" in damaged(pod, capsys, PLAIN)


def test_a_link_in_the_workspace_is_not_followed_on_restore(pod: Pod, gateway: GatewayServer, tmp_path: Path) -> None:
    stored(gateway, "k", packed(("workspace/.cache/pip/x", b"evil")))
    outside = tmp_path / "outside"
    outside.mkdir()
    (pod.workspace / ".cache").symlink_to(outside)
    (report,) = restore(pod, PLAIN)
    assert report.result == "failed"
    assert list(outside.iterdir()) == []


def test_a_file_where_the_cache_has_a_folder_is_left_alone(pod: Pod, gateway: GatewayServer) -> None:
    stored(gateway, "k", packed(("workspace/.cache/pip/a", b"1"), ("workspace/.cache/pip/x/y", b"1")))
    pod.write({".cache/pip/x": "a file of the repository"})
    (report,) = restore(pod, PLAIN)
    assert report.result == "failed"
    assert [path.name for path in (pod.workspace / ".cache/pip").iterdir()] == ["x"]


def test_a_gateway_that_is_away_is_a_failed_cache(pod: Pod, gateway: GatewayServer) -> None:
    gateway.always = [("GET", 503)]
    (report,) = restore(pod, PLAIN)
    assert report.result == "failed"
    assert "away" in report.message
    pod.write({".cache/pip/x": "1"})
    gateway.always = [("PUT", 507)]
    assert save(pod, PLAIN)[0].result == "failed"


@pytest.mark.usefixtures("archive_format")
def test_a_connection_lost_while_saving_is_retried_from_the_start(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({".cache/pip/x": os.urandom(3_000_000)})
    gateway.faults = [("PUT", -1), ("PUT", 0), ("PUT", 422)]
    caches, patient = Caches([PLAIN], pod.environment), Gateway(gateway.url, None, RetryPolicy(0.01, 9))
    (report,) = caches.save(["k"], patient, time.monotonic() + 60)
    patient.close()
    assert report.result == "saved"
    assert restore(another(pod), PLAIN)[0].result == "hit"


@pytest.mark.usefixtures("archive_format")
def test_a_link_that_leads_out_is_a_warning_that_names_it(pod: Pod, gateway: GatewayServer) -> None:
    pod.write({".cache/pip/x": "1"})
    (pod.workspace / ".cache/pip/python").symlink_to("/usr/bin/python3")
    (report,) = save(pod, PLAIN)
    assert report.result == "failed"
    assert "'workspace/.cache/pip/python' leads out of the workspace" in report.message
    assert gateway.caches == {}


def test_one_failing_cache_does_not_keep_the_others(pod: Pod, gateway: GatewayServer) -> None:
    stored(gateway, "k", b"damaged")
    stored(gateway, "good", packed(("workspace/g", b"1")))
    bad = CachePlan("x-{{ what }}", ("x",))
    reports = restore(pod, bad, PLAIN, CachePlan("good", ("g",)))
    assert [report.result for report in reports] == ["failed", "failed", "hit"]


@pytest.mark.parametrize("path", ["/etc", "../x", "~/../x", "~/a/../../x"])
def test_cache_paths_that_leave_their_root_are_refused(path: str) -> None:
    with pytest.raises(EscapeError):
        member_of(path)
