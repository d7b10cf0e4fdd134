import io
import os
import random
import stat
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import tree
from runner.archive import ArchiveError, Member, Unpacker, _header, _read_header, pack

ALL: list[Member] = [("workspace",), ("home",)]


class Folders:
    def __init__(self, root: Path) -> None:
        self.roots = {"workspace": root / "workspace", "home": root / "home"}
        self.staging = {"workspace": root / "staging-w", "home": root / "staging-h"}
        for path in (*self.roots.values(), *self.staging.values()):
            path.mkdir()
        self.outside = root / "outside"

    def unpack(self, data: bytes, allowed: list[Member] | None = None) -> None:
        Unpacker(self.staging, allowed or ALL, self.roots).unpack(Trickle(data))


class Trickle:
    """Gives out pieces of awkward sizes."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._random = random.Random(1)

    def read(self, size: int, /) -> bytes:
        return self._file.read(self._random.randint(1, size))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def tar(*members: tuple[str, bytes | None], **fields: object) -> bytes:
    """An archive by the standard library: files, and with None whatever `fields` say."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                for field, value in fields.items():
                    setattr(info, field, value)
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_tree_comes_back_as_it_was(folders: Folders) -> None:
    base = folders.roots["workspace"] / "cache"
    (base / "deep" / "er").mkdir(parents=True)
    (base / "empty").mkdir()
    (base / "script").write_bytes(b"#!/bin/sh\n")
    (base / "script").chmod(0o755)
    (base / "deep" / "secret").write_bytes(b"x" * 700_001)
    (base / "deep" / "secret").chmod(0o600)
    (base / "deep" / "er" / "link").symlink_to("../../script")
    (base / ("long-" + "n" * 200)).write_bytes(b"")
    (base / "uml\u00e4ut \u20ac").write_bytes(b"1")
    (base / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"2")
    (base / "setuid").write_bytes(b"")
    (base / "setuid").chmod(0o4755)
    os.utime(base / "script", (1_000_000_000, 1_000_000_000))
    os.utime(base / "empty", (1_100_000_000, 1_100_000_000))
    (base / "deep" / "er").chmod(0o555)
    folders.unpack(b"".join(pack(folders.roots, [("workspace", "cache")])))
    copy = folders.staging["workspace"] / "cache"

    def listing(root: Path) -> dict[str, tuple[int, bytes]]:
        return {
            os.fsdecode(bytes(path.relative_to(root))): (
                stat.S_IMODE(path.lstat().st_mode) & 0o777,
                b"" if path.is_dir() else os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes(),
            )
            for path in root.rglob("*")
        }

    assert listing(copy) == listing(base)
    assert stat.S_IMODE((copy / "setuid").stat().st_mode) == 0o755
    assert (copy / "script").stat().st_mtime == 1_000_000_000
    assert (copy / "empty").stat().st_mtime == 1_100_000_000


def test_the_standard_librarys_tarfile_reads_what_is_packed(folders: Folders) -> None:
    (folders.roots["home"] / "x").write_bytes(b"hello")
    data = b"".join(pack(folders.roots, [("home", "x")]))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["home/x"]
        extracted = archive.extractfile("home/x")
        assert extracted is not None
        assert extracted.read() == b"hello"


def test_holes_stay_holes(folders: Folders) -> None:
    with (folders.roots["workspace"] / "sparse").open("wb") as file:
        file.seek(64 * 1024 * 1024)
        file.write(b"end")
    folders.unpack(b"".join(pack(folders.roots, [("workspace", "sparse")])))
    found = (folders.staging["workspace"] / "sparse").stat()
    assert found.st_size == 64 * 1024 * 1024 + 3
    assert found.st_blocks * 512 < 8 * 1024 * 1024


def test_sockets_and_fifos_are_left_out(folders: Folders) -> None:
    os.mkfifo(folders.roots["workspace"] / "fifo")
    (folders.roots["workspace"] / "file").write_bytes(b"")
    folders.unpack(b"".join(pack(folders.roots, [("workspace",)])))
    assert [path.name for path in folders.staging["workspace"].iterdir()] == ["file"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "a/../../../x"])
def test_a_link_that_leads_out_is_not_packed(folders: Folders, target: str) -> None:
    (folders.roots["workspace"] / "cache").mkdir()
    (folders.roots["workspace"] / "cache" / "link").symlink_to(target)
    with pytest.raises(ArchiveError, match="leads out of the workspace"):
        list(pack(folders.roots, [("workspace", "cache")]))


def test_links_inside_the_workspace_may_be_absolute_or_climb(folders: Folders) -> None:
    cache = folders.roots["workspace"] / "cache"
    cache.mkdir()
    (cache / "absolute").symlink_to(folders.roots["home"] / "x")
    (cache / "climbing").symlink_to("../elsewhere")
    folders.unpack(b"".join(pack(folders.roots, [("workspace", "cache")])))
    assert (folders.staging["workspace"] / "cache" / "climbing").readlink() == Path("../elsewhere")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "workspace/../../x", "workspace/a/../../../x", "other/x", "x", "", "workspacex/y"]
)
def test_names_that_lead_out_are_refused(folders: Folders, name: str) -> None:
    with pytest.raises(ArchiveError):
        folders.unpack(tar((name, b"evil")))
    assert not folders.outside.exists()


def test_members_beside_the_caches_paths_are_refused(folders: Folders) -> None:
    with pytest.raises(ArchiveError, match="not beneath the paths of this cache"):
        folders.unpack(tar(("home/.bashrc", b"evil")), [("home", ".cache")])
    with pytest.raises(ArchiveError, match="not beneath"):
        folders.unpack(tar(("home/.cache2", b"evil")), [("home", ".cache")])


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "workspace/a"},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.SYMTYPE, "linkname": "../../etc"},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"type": b"?"},
    ],
)
def test_devices_fifos_hard_links_and_escaping_links_are_refused(folders: Folders, fields: dict[str, object]) -> None:
    with pytest.raises(ArchiveError):
        folders.unpack(tar(("workspace/bad", None), **fields))
    assert not (folders.staging["workspace"] / "bad").exists()


def test_a_link_as_parent_is_never_followed(folders: Folders) -> None:
    folders.outside.mkdir()
    link = tar(("workspace/d", None), type=tarfile.SYMTYPE, linkname=".")
    file = tar(("workspace/d/file", b"evil"))
    with pytest.raises((ArchiveError, tree.EscapeError)):
        folders.unpack(link[:512] + file)
    assert not (folders.staging["workspace"] / "file").exists()


def test_a_link_is_not_written_through(folders: Folders) -> None:
    victim = folders.staging["workspace"] / "victim"
    victim.write_bytes(b"safe")
    link = tar(("workspace/d", None), type=tarfile.SYMTYPE, linkname="victim")
    with pytest.raises(OSError, match="exists"):
        folders.unpack(link[:512] + tar(("workspace/d", b"evil")))
    assert victim.read_bytes() == b"safe"


def test_setuid_bits_are_stripped(folders: Folders) -> None:
    folders.unpack(tar(("workspace/d", None), type=tarfile.DIRTYPE, mode=0o7777))
    assert stat.S_IMODE((folders.staging["workspace"] / "d").stat().st_mode) == 0o777


def test_an_extended_header_of_any_claimed_size_takes_no_memory(folders: Folders) -> None:
    info = tarfile.TarInfo("workspace/x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(ArchiveError, match="extended header of 8589934592 bytes"):
        folders.unpack(info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1023, 1100])
def test_a_truncated_archive_is_recognised(folders: Folders, cut: int) -> None:
    with pytest.raises(ArchiveError):
        folders.unpack(tar(("workspace/x", b"y" * 600))[:cut])


@given(st.binary(max_size=2048))
def test_noise_is_refused_and_nothing_else_happens(data: bytes) -> None:
    import tempfile  # noqa: PLC0415 - hypothesis cannot use tmp_path

    with tempfile.TemporaryDirectory() as name, pytest.raises(ArchiveError):
        Folders(Path(name)).unpack(data.lstrip(b"\0"))


@given(st.integers(0, 4095), st.integers(0, 255))
def test_any_flipped_byte_is_refused_or_stays_inside(place: int, value: int) -> None:
    import tempfile  # noqa: PLC0415 - hypothesis cannot use tmp_path

    data = bytearray(tar(("workspace/a", b"1" * 600), ("workspace/b/c", b"2" * 600)))
    data[place % len(data)] = value
    with tempfile.TemporaryDirectory() as name:
        folders = Folders(Path(name))
        before = {path for path in Path(name).rglob("*") if "staging" not in str(path)}
        with suppress(ArchiveError, tree.EscapeError, OSError):
            folders.unpack(bytes(data))
        assert {path for path in Path(name).rglob("*") if "staging" not in str(path)} == before


def test_a_file_that_shrinks_while_it_is_packed_is_an_error(folders: Folders) -> None:
    path = folders.roots["workspace"] / "log"
    path.write_bytes(b"x" * 1_000_000)
    chunks = pack(folders.roots, [("workspace", "log")])
    next(chunks)
    path.write_bytes(b"")
    with pytest.raises(ArchiveError, match="became shorter"):
        list(chunks)


@pytest.mark.parametrize("path", ["/a", "a/../b", "..", "a\0b"])
def test_a_path_that_is_not_beneath_its_root_is_refused(path: str) -> None:
    with pytest.raises(tree.EscapeError):
        tree.split(path)


def test_read_only_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"")
    (tmp_path / "a" / "b").chmod(0o555)
    (tmp_path / "a").chmod(0)
    with tree.directory(tmp_path) as descriptor:
        tree.remove(descriptor, "a")
    assert list(tmp_path.iterdir()) == []


@given(
    st.text(st.sampled_from("ab.é-"), min_size=1, max_size=110),
    st.sampled_from([0, 1, 8**11 - 1, 8**11]),
    st.sampled_from([-1.0, 0.0, 1_767_225_600.9, 8.0**11]),
)
def test_headers_say_what_the_standard_librarys_say(name: str, size: int, mtime: float) -> None:
    found = os.stat_result((0o100751, 0, 0, 1, 0, 0, size, 0, mtime, 0))
    header = _header(("workspace", name), found, tarfile.REGTYPE, size=size)
    info = tarfile.TarFile(fileobj=io.BytesIO(header + bytes(2 * tarfile.BLOCKSIZE))).next()
    assert info is not None
    assert (info.name, info.size, info.mtime) == (f"workspace/{name}", size, max(0, int(mtime)))
    assert (info.mode, info.type, info.linkname, info.uid, info.gid) == (0o751, tarfile.REGTYPE, "", 0, 0)


@pytest.mark.parametrize("length", [1, 89, 90, 91, 100, 101])
def test_folders_and_links_of_any_length_keep_name_and_target(length: int) -> None:
    found = os.stat_result((0o40755, 0, 0, 1, 0, 0, 0, 0, 1, 0))
    for kind, link in ((tarfile.DIRTYPE, ""), (tarfile.SYMTYPE, "t" * length)):
        header = _header(("workspace", "n" * length), found, kind, link=link)
        info = tarfile.TarFile(fileobj=io.BytesIO(header + bytes(2 * tarfile.BLOCKSIZE))).next()
        assert info is not None
        assert (info.name, info.type, info.linkname) == ("workspace/" + "n" * length, kind, link)


@given(
    st.text(st.sampled_from("ab./-"), min_size=1, max_size=80),
    st.sampled_from([0, 1, 8**11 - 1]),
    st.sampled_from([(tarfile.REGTYPE, ""), (tarfile.DIRTYPE, ""), (tarfile.SYMTYPE, "é/b"), (tarfile.SYMTYPE, "a/b")]),
)
def test_headers_are_read_as_the_standard_library_reads_them(name: str, size: int, kind: tuple[bytes, str]) -> None:
    found = os.stat_result((0o100751, 0, 0, 1, 0, 0, size, 0, 1_767_225_600, 0))
    header = _header(("workspace", name), found, kind[0], size=size, link=kind[1])
    read = _read_header(header[: tarfile.BLOCKSIZE]).get_info()
    told = tarfile.TarInfo.frombuf(header[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape").get_info()
    same = ("mode", "size", "mtime", "type", "linkname")
    assert [read[key] for key in same] == [told[key] for key in same]
    assert str(read["name"]).rstrip("/") == str(told["name"]).rstrip("/")


@given(st.integers(0, tarfile.BLOCKSIZE - 1), st.integers(1, 255))
def test_a_header_with_one_other_byte_is_damaged(position: int, change: int) -> None:
    found = os.stat_result((0o100751, 0, 0, 1, 0, 0, 8, 0, 1_767_225_600, 0))
    header = bytearray(_header(("workspace", "name"), found, tarfile.REGTYPE, size=8))
    header[position] ^= change
    in_padding_of_checksum = position == 155  # after its NUL: tar programs differ in what they put there
    if in_padding_of_checksum:
        assert _read_header(bytes(header)).size == 8
    else:
        with pytest.raises(ArchiveError, match="damaged header"):
            _read_header(bytes(header))
