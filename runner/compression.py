"""Compressed streams: gzip in this process, Zstandard through the `zstd` program."""

import fcntl
import io
import os
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import IO, Final

from runner.seal import Readable

GZIP: Final = "tar.gz"
ZSTD: Final = "tar.zst"
CHUNK: Final = 128 * 1024
_SENT: Final = 256 * 1024  # at once: whoever reads it hashes it, frames it and sends it, each time
_PIPE: Final = 1024 * 1024  # of 64 KiB, both ends would wait for each other at every chunk
_PIECES: Final = 512  # in one system call; Linux takes 1024
_GZIP_LEVEL: Final = 1  # a cache is moved within a cluster: time matters more than bytes
_GZIP_WINDOW: Final = 31  # zlib: 32 KiB window, gzip header
# With -T1 it would still compress in a second thread, whose buffers take 54 MB in place of 10.
_ZSTD_COMPRESS: Final = ("zstd", "-q", "-c", "-3", "--single-thread", "--no-check")  # the seal is the check
_ZSTD_EXPAND: Final = ("zstd", "-q", "-d", "-c", "-M32MiB")  # a larger window would break the promise of 64 MiB


class CompressionError(Exception):
    """The data is damaged, or its format cannot be read here."""


def best_format() -> str:
    """What to write: Zstandard when its program is there."""
    return ZSTD if shutil.which("zstd") else GZIP


def compress(chunks: Iterator[bytes], archive: str) -> AbstractContextManager[Iterator[bytes]]:
    """The compressed chunks, while the context lasts. Errors of `chunks` pass through.

    Raises:
        CompressionError: when the program fails.
    """
    return _zstd_compress(chunks) if archive == ZSTD else _gzip_context(chunks)


def expand(source: Readable, archive: str) -> AbstractContextManager[Readable]:
    """The content, while the context lasts. Reading it to its end reads `source` to its end.

    Raises:
        CompressionError: when the format is unknown or cannot be read here; by `read`, when the data is damaged.
    """
    if archive == ZSTD:
        if not shutil.which("zstd"):
            raise CompressionError("it is compressed with zstd, which the runner image does not have: install zstd")
        return _zstd_expand(source)
    if archive == GZIP:
        return closing(_GzipReader(source))
    raise CompressionError(f"archive format {archive!r} is unknown to this runner")


@contextmanager
def _gzip_context(chunks: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    with closing(_gzip_compress(chunks)) as packed:
        yield packed


# --- gzip -------------------------------------------------------------------------------------------------------------


def _gzip_compress(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


class _GzipReader:
    """Bounded in both directions: a small input may expand a thousandfold."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._unpacker = zlib.decompressobj(_GZIP_WINDOW)
        self._left = b""  # compressed input not yet used

    def read(self, size: int, /) -> bytes:
        while not self._unpacker.eof:
            chunk = self._left or self._source.read(CHUNK)
            try:
                data = self._unpacker.decompress(chunk, size)
            except zlib.error as error:
                raise CompressionError(f"damaged gzip data: {error}") from error
            self._left = self._unpacker.unconsumed_tail
            if data:
                return data
            if not chunk:
                raise CompressionError("the gzip data ends too early")
        if self._unpacker.unused_data or self._source.read(CHUNK):
            raise CompressionError("there is data after the end of the gzip stream")
        return b""

    def close(self) -> None:
        self._left = b""


# --- Zstandard --------------------------------------------------------------------------------------------------------


class _Filter:
    """A program between a feeding thread (its input) and us (its output)."""

    def __init__(self, command: tuple[str, ...], feed: Callable[[IO[bytes]], None]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with suppress(OSError):  # a user's pipes together are limited: a smaller one does as well
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        # Most reads ask for a header of 512 bytes, or for a small file.
        assert self._process.stdout
        self._output = io.BufferedReader(self._process.stdout, CHUNK)  # type: ignore[type-var]  # raw: bufsize=0
        self._feed = feed
        self._error: BaseException | None = None
        # A daemon: when we give up, it may be blocked on the network for a while.
        self._feeder = threading.Thread(target=self._run, daemon=True, name="feeder")
        self._feeder.start()

    def _run(self) -> None:
        assert self._process.stdin
        try:
            with suppress(BrokenPipeError):  # the program has ended: its exit code tells why
                self._feed(self._process.stdin)
        except BaseException as error:  # noqa: BLE001 - raised again by `finish`, in the thread that reads
            self._error = error
        finally:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def read(self, size: int, /) -> bytes:
        chunk = self._output.read(size)
        if not chunk:
            self._finish()
        return chunk

    def _finish(self) -> None:
        assert self._process.stderr
        said = self._process.stderr.read(4096).decode("utf-8", "replace").strip()
        code = self._process.wait()
        self._feeder.join()
        if self._error is not None:
            raise self._error
        if code:
            raise CompressionError(f"zstd ended with exit code {code}: {said}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._feeder.join(timeout=1)
        self._output.close()
        assert self._process.stderr
        self._process.stderr.close()


@contextmanager
def _zstd_compress(chunks: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    def feed(pipe: IO[bytes]) -> None:
        for pieces in _gathered(chunks):
            _write_all(pipe, pieces)

    with closing(_Filter(_ZSTD_COMPRESS, feed)) as program:
        yield iter(lambda: program.read(_SENT), b"")


@contextmanager
def _zstd_expand(source: Readable) -> Iterator[Readable]:
    def feed(pipe: IO[bytes]) -> None:
        while chunk := source.read(CHUNK):
            _write_all(pipe, [chunk])

    with closing(_Filter(_ZSTD_EXPAND, feed)) as program:
        yield program


def _gathered(chunks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """The same chunks, by `CHUNK` bytes or more: a small file is three, and not worth three system calls."""
    pieces: list[bytes] = []
    size = 0
    for chunk in chunks:
        pieces.append(chunk)
        size += len(chunk)
        if size >= CHUNK or len(pieces) >= _PIECES:
            yield pieces
            pieces, size = [], 0
    yield pieces


def _write_all(pipe: IO[bytes], pieces: list[bytes]) -> None:
    written = os.writev(pipe.fileno(), pieces)
    if written < sum(map(len, pieces)):  # a signal came in between
        view = memoryview(b"".join(pieces))[written:]
        while view:
            view = view[pipe.write(view) :]
