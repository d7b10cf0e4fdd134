"""The object store: a local folder, S3, GCS, Azure or memory, behind one small asynchronous interface.

The only module that imports obstore. What it promises, whatever the store:

- **Atomic**: an object is visible whole or not at all. When the source of an upload fails, or the task is cancelled,
  nothing becomes visible, and the store is told to drop the parts.
- **Bounded memory**: an upload holds at most `UPLOAD_CHUNK_BYTES * (UPLOAD_CONCURRENCY + 1)` = 15 MiB, a download
  about two chunks of `DOWNLOAD_CHUNK_BYTES`, whatever the object's size.
- **Errors are ours**: see the hierarchy below; `temporary` says whether the same call may succeed later.

Objects carry no attributes, because a local folder has no place for them: what must be known about an object stands
in its name. A local folder is not synced to disk: after a power failure a young object may be empty, which the
digests in manifests and the seals of cache entries show.

A process killed in the middle of a local upload leaves a file `<name>#<number>` behind: invisible to `list` and
`get`, replaced by nothing, safe to delete. On S3 it leaves an incomplete multipart upload: give the bucket a
lifecycle rule that aborts them.
"""

import asyncio
import atexit
import errno
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions as obstore_errors
from obstore.store import LocalStore, MemoryStore
from obstore.store import ObjectStore as BackingStore
from obstore.store import from_url as backing_store_from_url
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

if TYPE_CHECKING:  # obstore has these names in its stubs only
    from obstore import GetOptions, GetResult
    from obstore import ObjectMeta as BackingMeta
    from obstore.store import ClientConfig, RetryConfig

# S3 takes parts of 5 MiB or more, and 10,000 parts: objects end at 48 GiB.
UPLOAD_CHUNK_BYTES: Final = 5 * 1024 * 1024
UPLOAD_CONCURRENCY: Final = 2
MAX_OBJECT_BYTES: Final = 10_000 * UPLOAD_CHUNK_BYTES
DOWNLOAD_CHUNK_BYTES: Final = 1024 * 1024
LIST_PAGE: Final = 1000

# The client's default is 30 s for a whole transfer, which a large object on a slow link exceeds: a stalled transfer
# is recognised by its silence instead.
TRANSFER_TIMEOUT: Final = timedelta(hours=6)
READ_TIMEOUT: Final = timedelta(seconds=60)
CONNECT_TIMEOUT: Final = timedelta(seconds=5)
# How long the client itself repeats one HTTP request (the parts of an upload can only be repeated there).
CLIENT_RETRY_FOR: Final = timedelta(seconds=20)
CLIENT_RETRIES: Final = 4

# After the last operation obstore's threads still hand back what they held of Python. A thread that asks for the
# interpreter while it is being torn down aborts the process: half of all runs that exited right after reading an
# object ended with SIGABRT instead of their own exit status (pyo3-async-runtimes issue 40). One pause of the main
# thread, before the teardown begins, lets them finish: 0 of 240 runs, even at 1 ms.
EXIT_PAUSE_S: Final = 0.05
_exit_pause_registered = False

_REMOTE_SCHEMES: Final = frozenset({"s3", "gs", "az"})
_ENDPOINT_VARIABLES: Final = frozenset(
    {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL"}
)
_SEGMENT_BYTES: Final = 255  # of file systems
# The local store writes to `<name>#<number>` before it renames, and hides and refuses such names.
_UNUSABLE: Final = re.compile(r"[\x00-\x1f\x7f]|#[0-9]+(/|\Z)")
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")

_Pages: TypeAlias = "AsyncIterator[Sequence[BackingMeta]]"


class StoreError(Exception):
    """Something about the object store. `temporary`: whether the same call may succeed later, unchanged."""

    temporary = False


class StoreConfigError(StoreError):
    """The store's URL or its settings are wrong."""


class InvalidName(StoreError):  # noqa: N818 - reads as the outcome it is, like KeyError's own relatives
    """No object can have this name."""


class NotFound(StoreError):  # noqa: N818 - as above
    """There is no such object."""


class AlreadyExists(StoreError):  # noqa: N818 - as above
    """An object of this name exists, and was to be created."""


class NameConflict(StoreError):  # noqa: N818 - as above
    """In a folder a name cannot be both a file and a folder: `a` and `a/b` exclude each other."""


class StoreRefused(StoreError):  # noqa: N818 - as above
    """The store rejects our credentials or denies the permission: the operator has to act."""


class StoreUnavailable(StoreError):  # noqa: N818 - as above
    """The store did not answer, or answered with a failure of its own."""

    temporary = True


class StoreFull(StoreUnavailable):
    """No space, or a quota of the file system: works again when somebody makes room."""


_KINDS: Final[tuple[tuple[tuple[type[Exception], ...], type[StoreError]], ...]] = (
    ((obstore_errors.AlreadyExistsError,), AlreadyExists),
    ((obstore_errors.PermissionDeniedError, obstore_errors.UnauthenticatedError, PermissionError), StoreRefused),
    ((obstore_errors.InvalidPathError, ValueError), InvalidName),
)
# obstore reports failures of the local folder as text ending in `(os error <errno>)`.
_OS_ERRORS: Final[dict[int, type[StoreError]]] = {
    errno.ENOSPC: StoreFull,
    errno.EFBIG: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EACCES: StoreRefused,
    errno.EPERM: StoreRefused,
    errno.EROFS: StoreRefused,
    errno.ENAMETOOLONG: InvalidName,
    errno.ENOTDIR: NameConflict,
    errno.EISDIR: NameConflict,
    errno.ENOTEMPTY: NameConflict,
}

# The only retry policy towards the store: reads, because they change nothing. Writes are not repeated here; their
# source is a stream that cannot be read twice, and the client repeats single requests by itself.
retried_read: Final = retry(
    retry=retry_if_exception_type(StoreUnavailable),
    wait=wait_random_exponential(multiplier=0.1, max=2.0),
    stop=stop_after_attempt(3),
    reraise=True,
)


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """One object: `size` in bytes, `last_modified` with time zone."""

    path: str
    size: int
    last_modified: datetime


class ObjectStore:
    """Objects under one root. Paths are relative to it, `/`-separated; `runner_spec.storage` makes them."""

    def __init__(self, backing: BackingStore, url: str) -> None:
        _pause_at_exit()
        self._backing = backing
        self.url = url

    @classmethod
    def from_url(cls, url: str, *, client_retries: int = CLIENT_RETRIES) -> "ObjectStore":
        """Open `file:///folder`, a plain folder (created when missing), `s3://bucket/prefix`, `gs://…`, `az://…`
        or `memory://`.

        Credentials, region and endpoint of the remote ones come from the environment, under the names their own
        tools use (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, `GOOGLE_APPLICATION_CREDENTIALS`,
        `AZURE_STORAGE_ACCOUNT_NAME`, …), or from the pod's identity. Nothing is contacted yet.

        Raises:
            StoreConfigError: unknown scheme, missing bucket, a folder that cannot be made, bad settings.
        """  # noqa: D205 - the list of schemes is the summary
        parts = urlsplit(url)
        if parts.scheme == "memory":
            return cls(MemoryStore(), url)
        if parts.scheme in _REMOTE_SCHEMES:
            return cls(_remote_store(url, client_retries), url)
        if parts.scheme not in {"", "file"}:
            message = f"object store {url!r}: unknown scheme {parts.scheme!r}; use a folder, file, s3, gs, az or memory"
            raise StoreConfigError(message)
        if parts.scheme == "file" and (parts.netloc not in {"", "localhost"} or not parts.path.startswith("/")):
            raise StoreConfigError(f"object store {url!r}: write file:///absolute/folder (three slashes)")
        if not url:
            raise StoreConfigError("object store: the URL is empty; name a folder or a bucket")
        return cls(_local_store(unquote(parts.path) if parts.scheme else url), url)

    async def put_stream(self, path: str, source: AsyncIterator[bytes]) -> int:
        """Store what `source` yields, atomically, replacing an older object of the name; returns the bytes stored.

        An exception raised by `source` passes through unchanged, and nothing is stored. A multipart upload is aborted
        then, and also when the calling task is cancelled.

        Raises:
            InvalidName, NameConflict, StoreFull, StoreRefused, StoreUnavailable: see there.
        """
        _check_name(path)
        watched = _WatchedSource(source)
        upload = asyncio.ensure_future(
            obstore.put_async(
                self._backing,
                path,
                watched,
                chunk_size=UPLOAD_CHUNK_BYTES,
                max_concurrency=UPLOAD_CONCURRENCY,
                use_multipart=True,
            )
        )
        try:
            await asyncio.shield(upload)
        except asyncio.CancelledError:
            # Cancelling the upload itself would leave the parts in the bucket [measured on moto]; a failing source
            # makes the client abort them.
            watched.stop()
            await asyncio.wait({upload})
            if not upload.cancelled():
                upload.exception()
            raise
        except Exception as error:
            if watched.failure is not None:  # the source's own failure is not the store's: hand on what it raised
                raise watched.failure from watched.failure.__cause__
            if isinstance(self._backing, LocalStore) and await self._is_folder(path):
                # The client says only "Upload aborted" when its final rename fails.
                raise NameConflict(f"{path}: a folder of this name exists") from error
            raise _translate(error, path, writing=True) from error
        if not watched.exhausted:
            # Never seen: a store that stopped reading early must not become a silent truncation.
            raise StoreUnavailable(f"{path}: the store ended the upload before its source did")
        return watched.size

    async def _is_folder(self, path: str) -> bool:
        async for _ in self.list(path):
            return True
        return False

    async def put(self, path: str, data: bytes) -> None:
        """Store a small object, replacing an older one.

        Raises:
            InvalidName, NameConflict, StoreFull, StoreRefused, StoreUnavailable: see there.
        """
        await self._put(path, data, "overwrite")

    async def put_if_absent(self, path: str, data: bytes) -> None:
        """Store a small object unless the name is taken; of several callers exactly one succeeds.

        Raises:
            AlreadyExists: the name is taken, nothing was changed; the rest as in `put`.
        """
        await self._put(path, data, "create")

    async def _put(self, path: str, data: bytes, mode: Literal["create", "overwrite"]) -> None:
        _check_name(path)
        try:
            await obstore.put_async(self._backing, path, data, mode=mode, use_multipart=False)
        except Exception as error:
            raise _translate(error, path, writing=True) from error

    @retried_read
    async def get(self, path: str, *, start: int = 0, length: int | None = None) -> bytes:
        """A small object, or `length` bytes of it from `start` (fewer at its end, none beyond it).

        Raises:
            NotFound, InvalidName, StoreRefused, StoreUnavailable: see there.
        """
        _, chunks = await self._open(path, start, length)
        return b"".join([chunk async for chunk in chunks])

    @retried_read
    async def open(
        self, path: str, *, start: int = 0, length: int | None = None
    ) -> tuple[ObjectMeta, AsyncIterator[bytes]]:
        """An object's facts (`size` is the whole object's) and its bytes, or a range of them, in chunks.

        A failure in the middle of the stream is raised by the iterator: nothing is retried then.

        Raises:
            NotFound, InvalidName, StoreRefused, StoreUnavailable: see there.
        """
        return await self._open(path, start, length)

    async def _open(self, path: str, start: int, length: int | None) -> tuple[ObjectMeta, AsyncIterator[bytes]]:
        options: GetOptions = {}
        if start < 0 or (length is not None and length < 0):
            raise ValueError(f"range of {path}: start {start} and length {length} must not be negative")
        if start or length is not None:
            # Stores answer an empty or far-off range with differing errors: ask for the size and settle it here.
            meta = await self._head(path)
            end = meta.size if length is None else min(meta.size, start + length)
            if start >= end:
                return meta, _no_chunks()
            options["range"] = (start, end)
        _check_name(path)
        try:
            result = await obstore.get_async(self._backing, path, options=options)
        except Exception as error:
            raise _translate(error, path) from error
        return _meta(result.meta), _chunks(result, path)

    @retried_read
    async def open_file(self, path: str) -> tuple[ObjectMeta, BinaryIO] | None:
        """An object's facts and its file, for the caller to read and close; None where the store is no folder.

        For senders: the system copies from a file to a socket by itself, at a tenth of what `open` costs in CPU.

        Raises:
            NotFound, InvalidName, StoreRefused, StoreUnavailable: see there.
        """
        folder = self._backing.prefix if isinstance(self._backing, LocalStore) else None
        if folder is None:
            return None
        _check_name(path)
        try:
            return await asyncio.to_thread(_open_file, folder / path, path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(f"{path}: there is no such object") from error
        except OSError as error:
            ours = _OS_ERRORS.get(error.errno or 0, StoreUnavailable)
            raise ours(f"{path}: {error.strerror}") from error

    @retried_read
    async def head(self, path: str) -> ObjectMeta:
        """An object's facts.

        Raises:
            NotFound, InvalidName, StoreRefused, StoreUnavailable: see there.
        """
        return await self._head(path)

    async def _head(self, path: str) -> ObjectMeta:
        _check_name(path)
        try:
            return _meta(await obstore.head_async(self._backing, path))
        except Exception as error:
            raise _translate(error, path) from error

    @property
    def lists_in_order(self) -> bool:
        """Whether `list` yields names in their order; a folder has none."""
        return not isinstance(self._backing, LocalStore)

    async def list(self, folder: str, *, starting_with: str = "", after: str = "") -> AsyncIterator[ObjectMeta]:
        """All objects in a folder and below, in no particular order; `""` is the root, no such folder no objects.

        `folder` matches whole segments (`logs/run` is not `logs/run2`). `starting_with`, a whole path such as
        `logs/run/0`, keeps what starts with it, character by character; `after`, what follows it in the order of names.

        Raises:
            InvalidName, StoreRefused, StoreUnavailable: see there; also in the middle, never a silent end.
        """
        if folder:
            _check_name(folder)
        pages, page = await self._first_page(folder, after)
        while page is not None:
            for entry in page:
                if entry.path.startswith(starting_with):
                    yield entry
            page = await _next_page(pages, folder)

    @retried_read
    async def _first_page(self, folder: str, after: str) -> tuple[_Pages, Sequence[ObjectMeta] | None]:
        pages = aiter(obstore.list(self._backing, folder or None, offset=after or None, chunk_size=LIST_PAGE))
        return pages, await _next_page(pages, folder)

    async def delete(self, path: str) -> None:
        """Delete an object; one that does not exist is not an error.

        Raises:
            InvalidName, StoreRefused, StoreUnavailable: see there.
        """
        _check_name(path)
        try:
            await obstore.delete_async(self._backing, path)
        except Exception as error:
            failure = _translate(error, path)
            if not isinstance(failure, NotFound):
                raise failure from error

    async def delete_all(self, paths: Sequence[str]) -> None:
        """Delete objects, as few requests as the store allows; those that do not exist are no error.

        Raises:
            InvalidName, StoreRefused, StoreUnavailable: see there; some may be deleted.
        """
        for path in paths:
            _check_name(path)
        try:
            await obstore.delete_async(self._backing, list(paths))
        except FileNotFoundError:  # a folder's own way; what came after it may still be there
            for path in paths:
                await self.delete(path)
        except Exception as error:
            raise _translate(error, f"{len(paths)} objects") from error

    async def probe(self) -> None:
        """Ask the store anything at all: for a readiness check.

        Raises:
            StoreRefused, StoreUnavailable: see there.
        """
        with suppress(NotFound):
            await self._head("readyz")


def _pause_at_exit() -> None:
    global _exit_pause_registered  # noqa: PLW0603 - once per process, like the threads it waits for
    if not _exit_pause_registered:
        _exit_pause_registered = True
        atexit.register(time.sleep, EXIT_PAUSE_S)


class _Stopped(Exception):  # noqa: N818 - control flow, never seen outside
    """The caller of an upload was cancelled."""


class _WatchedSource:
    """The source of an upload: counts, keeps its failure, and can be made to fail from outside."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self._pending: asyncio.Task[object] | None = None
        self._stopped = False
        self.size = 0
        self.exhausted = False
        self.failure: Exception | None = None

    def stop(self) -> None:
        """Make the item being waited for, or the next one, a failure."""
        self._stopped = True
        if self._pending is not None:
            self._pending.cancel()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._stopped:
            raise _Stopped
        self._pending = asyncio.current_task()  # obstore wraps every call in a task of its own
        try:
            chunk = await anext(self._source)
        except StopAsyncIteration:
            self.exhausted = True
            raise
        except asyncio.CancelledError:
            raise _Stopped from None
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._pending = None
        self.size += len(chunk)
        return chunk


async def _next_page(pages: _Pages, folder: str) -> Sequence[ObjectMeta] | None:
    try:
        return [_meta(entry) for entry in await anext(pages)]
    except StopAsyncIteration:
        return None
    except Exception as error:
        # "Not found" is here a missing bucket: an operator's mistake must not look like an empty one.
        failure = _translate(error, folder, writing=True)
        if isinstance(failure, NameConflict):
            return None  # the folder's name is that of a file: nothing is below it
        raise failure from error


async def _chunks(result: "GetResult", path: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in result.stream(min_chunk_size=DOWNLOAD_CHUNK_BYTES):
            yield bytes(chunk)
    except Exception as error:
        raise _translate(error, path) from error


async def _no_chunks() -> AsyncIterator[bytes]:
    for chunk in tuple[bytes, ...]():
        yield chunk


def _open_file(file: Path, path: str) -> tuple[ObjectMeta, BinaryIO]:
    opened = file.open("rb", buffering=0)
    found = os.fstat(opened.fileno())
    return ObjectMeta(path, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC)), opened


def _meta(found: "BackingMeta") -> ObjectMeta:
    return ObjectMeta(found["path"], found["size"], found["last_modified"])


def _check_name(path: str) -> None:
    for segment in path.split("/"):
        if segment in {"", ".", ".."} or len(segment.encode(errors="replace")) > _SEGMENT_BYTES:
            raise InvalidName(f"object name {path[:200]!r}: segment {segment[:40]!r} is empty, dots only or too long")
    if _UNUSABLE.search(path):
        raise InvalidName(f"object name {path[:200]!r}: control characters and a final #number are not possible")


def _translate(error: Exception, path: str, *, writing: bool = False) -> StoreError:
    """Our exception for one of obstore's; `path` and the store's own first line go into the message."""
    message = f"{path}: {str(error).partition(chr(10))[0][:300] or type(error).__name__}"
    if isinstance(error, FileNotFoundError):
        # When writing, it is the bucket that does not exist.
        return StoreRefused(f"{message} (does the bucket exist?)") if writing else NotFound(message)
    for kinds, ours in _KINDS:
        if isinstance(error, kinds):
            return ours(message)
    number = _OS_ERROR.search(str(error))
    ours = _OS_ERRORS.get(int(number[1]), StoreUnavailable) if number else StoreUnavailable
    if ours is NameConflict and not writing:
        ours = NotFound
    return ours(message)


def _local_store(folder: str) -> BackingStore:
    path = Path(folder).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        return LocalStore(path)
    except (OSError, ValueError, obstore_errors.BaseError) as error:
        raise StoreConfigError(f"object store {folder!r}: the folder cannot be used: {error}") from error


def _remote_store(url: str, client_retries: int) -> BackingStore:
    # An endpoint written with http:// is the operator's consent to it; the client would call it a bad scheme.
    plain = any(value.startswith("http://") for name, value in os.environ.items() if name in _ENDPOINT_VARIABLES)
    options: ClientConfig = {
        "timeout": TRANSFER_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "connect_timeout": CONNECT_TIMEOUT,
        "allow_http": plain,
    }
    repeats: RetryConfig = {"max_retries": client_retries, "retry_timeout": CLIENT_RETRY_FOR}
    try:
        return backing_store_from_url(url, client_options=options, retry_config=repeats)
    except (ValueError, obstore_errors.BaseError) as error:
        reason = str(error).partition("\n")[0]
        raise StoreConfigError(f"object store {url!r}: {reason}; write s3://bucket/prefix (or gs, az)") from error
