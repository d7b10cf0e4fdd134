"""Makes the file tree of an image out of the Debian packages of the stage that this runs in.

    rootfs.py fill TARGET [--without PACKAGE]... PACKAGE...
    rootfs.py seal TARGET --epoch SECONDS [--uncompiled REGEX]

`fill` copies the files of the named packages and of all that they depend on, so that what an image holds is a list of
what it needs: no package manager, no compiler and no pip gets in because nobody thought of removing it. `--without`
names packages that are a dependency on paper only, with what only they need. What packages make at installation is
made here: accounts, certificates, dpkg's list (by which scanners know what is inside).

`seal` comes last: it compiles Python's modules, removes what differs between two equal builds (times, modes), and
fails when a program lacks a library.

Runs as root in a build stage, on the standard library of Debian's own python3.
"""

# ruff: noqa: INP001 - a script between Dockerfiles, no package

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# Not needed to run anything. Copyright files stay: the licences demand them.
LEFT_OUT = re.compile(r"/usr/share/(doc/.*(?<!/copyright)|(man|info|locale|lintian|bug|bash-completion|doc-base)/.*)")
# Of a merged /usr: links, which no package owns.
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Mount points of a container runtime, so that it need not make them in a root that is read-only.
EMPTY_FOLDERS = ("dev", "proc", "run", "sys", "tmp")
STICKY = "tmp"
# No password, no home: ssh refuses to run as a user without an entry, and looks for its files in the home given here.
PASSWD = """\
root:x:0:0:root:/nonexistent:/bin/sh
dynapod:x:1000:1000:dynapod:/nonexistent:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/sh
"""  # noqa: S105 - a file's content, and no password in it
GROUP = "root:x:0:\ndynapod:x:1000:\nnogroup:x:65534:\n"
# Names of services beside the job (hostAliases) stand in /etc/hosts: it comes first.
NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"
CERTIFICATES = "usr/share/ca-certificates"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
# Where OpenSSL looks, so Python's ssl as well; git (GnuTLS) and git-lfs (Go) read the bundle itself.
OPENSSL_BUNDLE = "usr/lib/ssl/cert.pem"
ELF_MAGIC = b"\x7fELF"
EXECUTABLE, PLAIN = 0o755, 0o644


class BuildError(Exception):
    """The image cannot be made; the message says what to change."""


@dataclass(frozen=True)
class Package:
    """An installed package: `needs` holds the alternatives of each of its dependencies, in their order."""

    name: str
    provides: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]


def parse_packages(listing: str) -> dict[str, Package]:
    """Packages by name, and by each name that they provide, from lines of three columns: name, provides, depends."""
    found: dict[str, Package] = {}
    for line in listing.splitlines():
        name, provides, depends = line.split("\t")
        package = Package(name, tuple(_names(provides.replace("|", ","))), tuple(_alternatives(depends)))
        found |= {alias: package for alias in package.provides if alias not in found}
        found[name] = package
    return found


def _names(relation: str) -> Iterator[str]:
    """`libc6 (>= 2.36), python3:any` → libc6, python3."""
    for word in relation.split(","):
        if name := re.split(r"[\s:(\[]", word.strip(), maxsplit=1)[0]:
            yield name


def _alternatives(depends: str) -> Iterator[tuple[str, ...]]:
    for dependency in depends.split(","):
        if names := tuple(_names(dependency.replace("|", ","))):
            yield names


def closure(packages: Mapping[str, Package], wanted: Iterable[str], without: Iterable[str]) -> list[str]:
    """Names of the wanted packages and of all they need, sorted; nothing is followed through those left out.

    Raises:
        BuildError: when a wanted package is not installed, or a name left out is not needed by anything.
    """
    left_out, unused = set(without), set(without)
    kept: set[str] = set()
    waiting: list[tuple[str, ...]] = [(name,) for name in wanted]
    while waiting:
        alternatives = waiting.pop()
        if skipped := left_out & set(alternatives):
            unused -= skipped
            continue
        package = next((packages[name] for name in alternatives if name in packages), None)
        if package is None:
            raise BuildError(f"package {' | '.join(alternatives)} is not installed in this stage: apt-get install it")
        if package.name not in kept:
            kept.add(package.name)
            waiting += package.needs
    if unused:
        raise BuildError(f"--without {', '.join(sorted(unused))}: nothing depends on it, remove it from the list")
    return sorted(kept)


def fill(target: Path, wanted: Iterable[str], without: Iterable[str]) -> None:
    """Copy the packages and all that they need into `target`."""
    fields = r"${db:Status-Status}\t${Package}\t${Provides}\t${Pre-Depends},${Depends}\n"
    lines = output("dpkg-query", "--show", f"--showformat={fields}").splitlines()
    state = "installed\t"
    packages = parse_packages("\n".join(line.removeprefix(state) for line in lines if line.startswith(state)))
    names = closure(packages, wanted, without)
    target.mkdir(parents=True, exist_ok=True)
    for name in MERGED:
        if (link := Path("/", name)).is_symlink():
            (target / name).symlink_to(link.readlink())
    for name in names:
        for line in output("dpkg-query", "--listfiles", name).splitlines():
            if line.startswith("/") and line != "/." and not LEFT_OUT.fullmatch(line):
                copy(Path(line), target)
    for folder in EMPTY_FOLDERS:
        (target / folder).mkdir(parents=True, exist_ok=True)
    write(target / "etc/passwd", PASSWD)
    write(target / "etc/group", GROUP)
    write(target / "etc/nsswitch.conf", NSSWITCH)
    # Not the bundle of this stage: it may hold certificates of the machine that builds.
    certificates = sorted((target / CERTIFICATES).rglob("*.crt"))
    if certificates:
        write(target / BUNDLE, "".join(path.read_text(encoding="ascii") for path in certificates))
        shutil.rmtree(target / CERTIFICATES)
        (target / OPENSSL_BUNDLE).parent.mkdir(parents=True, exist_ok=True)
        (target / OPENSSL_BUNDLE).symlink_to(Path("/", BUNDLE))
    write(target / "var/lib/dpkg/status", "".join(output("dpkg-query", "--status", name) + "\n" for name in names))
    remove_orphaned_scripts(target)


def copy(path: Path, target: Path) -> None:
    """Copy one file, link or folder of a package; what the package lists but is not here is left out."""
    place = target / path.parent.resolve().relative_to("/") / path.name
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        if not place.is_symlink():  # of a merged /usr: /lib64, say, is a folder for one package and a link on the disk
            place.symlink_to(path.readlink())
    elif path.is_dir():
        place.mkdir(exist_ok=True)
    elif path.is_file():
        shutil.copy2(path, place)


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def remove_orphaned_scripts(target: Path) -> None:
    """A program whose interpreter was left out cannot run: git's in Perl, say. Modules stay, however they begin."""
    for path in files(target):
        if path.suffix == ".py" or not path.stat().st_mode & stat.S_IXUSR:
            continue
        with path.open("rb") as file:
            line = file.readline(256)
        words = line[2:].split() if line.startswith(b"#!") else []
        if words and not os.path.lexists(target / os.fsdecode(words[0]).lstrip("/")):
            path.unlink()


def files(target: Path) -> Iterator[Path]:
    """All regular files, in a stable order."""
    for path in sorted(target.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def seal(target: Path, epoch: int, uncompiled: str) -> None:
    """Compile, check and make equal trees equal to the byte.

    Raises:
        BuildError: when a program lacks a library.
    """
    output("ldconfig", "-r", str(target))
    shutil.rmtree(target / "var/cache/ldconfig", ignore_errors=True)  # holds inode numbers
    compile_modules(target, uncompiled)
    check_libraries(target)
    for path in (*target.rglob("*"), target):
        if not path.is_symlink():
            path.chmod(mode(path, target))
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def mode(path: Path, target: Path) -> int:
    """For anybody to read and for nobody to change; no set-user-id bit, whatever the umask of who built this."""
    if path.is_dir():
        return 0o1777 if path.relative_to(target).as_posix() == STICKY else EXECUTABLE
    return EXECUTABLE if path.stat().st_mode & stat.S_IXUSR else PLAIN


def compile_modules(target: Path, uncompiled: str) -> None:
    """Byte code that is used without a look at its source, whose time changes here, and whose folder is read-only.

    Modules whose path matches `uncompiled` can still be imported, more slowly.
    """
    for folder in list(target.rglob("__pycache__")):
        shutil.rmtree(folder)
    # One process: the order in which modules are compiled shows in the byte code (shared strings).
    options = ("-q", "--invalidation-mode", "unchecked-hash", "-s", str(target), "-p", "/")
    skipped = ("-x", uncompiled) if uncompiled else ()
    output(sys.executable, "-m", "compileall", *options, *skipped, str(target))


def check_libraries(target: Path) -> None:
    """Fail when an ELF file needs a library that would not be found in the image.

    Raises:
        BuildError: naming every file and the library that it lacks.
    """
    programs = [str(path) for path in files(target) if is_elf(path)]
    if not programs:
        return
    # Of static ones ldd says `not a dynamic executable`, and ends with 1. A single file's list has no heading.
    done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    missing, program = [], programs[0]
    for line in done.stdout.splitlines():
        if not line.startswith("\t"):
            program = line.rstrip(":")
        elif found := re.match(r"\t(\S+) => (.*?)( \(0x[0-9a-f]+\))?$", line):
            library = Path(found[2])
            inside = library if library.is_relative_to(target) else target / library.as_posix().lstrip("/")
            if found[2] == "not found" or not inside.exists():
                missing.append(f"{program} needs {found[1]}")
    if missing:
        raise BuildError("libraries are missing, name their packages too:\n" + "\n".join(missing))


def is_elf(path: Path) -> bool:
    """Whether this is a program or a library."""
    with path.open("rb") as file:
        return file.read(len(ELF_MAGIC)) == ELF_MAGIC


def output(*command: str) -> str:
    """What a command prints.

    Raises:
        BuildError: when it fails, with its words.
    """
    # Debian's plain users do not have /usr/sbin in their PATH, where ldconfig is.
    paths = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": paths})
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]}: not found; install it") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("fill")
    filling.add_argument("target", type=Path)
    filling.add_argument("--without", action="append", default=[])
    filling.add_argument("packages", nargs="+")
    sealing = commands.add_parser("seal")
    sealing.add_argument("target", type=Path)
    sealing.add_argument("--epoch", type=int, required=True)
    sealing.add_argument("--uncompiled", default="")
    options = parser.parse_args(arguments)
    try:
        if options.command == "fill":
            fill(options.target, options.packages, options.without)
        else:
            seal(options.target, options.epoch, options.uncompiled)
    except BuildError as error:
        sys.stderr.write(f"rootfs: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
