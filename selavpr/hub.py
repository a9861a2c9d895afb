"""Files from and to the Hugging Face Hub, with one clear sentence for everything that can go wrong.

The only module that knows huggingface_hub. Files live in its shared cache (``HF_HOME``); one that
is there is used without asking the network, so a machine that is offline loses no time. A download
that broke off is resumed by the next call.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
    tqdm,
)

from selavpr.errors import HubError

logger = logging.getLogger(__name__)

RepoType = Literal["model", "dataset", "space"]

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_REVISION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18})")
_CONTENT_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # of git, and of large file storage
_COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE_S, LEAST = 60.0, 1 << 16
"""Seconds, and the bytes that have to arrive in them. Single bytes may come for ever, each of them
before any time-out."""

TRIES = 5
"""Lines on end that may drop without having brought even that."""
_DROPPED = ("ConnectError", "ConnectTimeout", "ReadTimeout", "PoolTimeout", "RemoteProtocolError")
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class _BrokeOffError(Exception):
    """A download ended early or arrived damaged; the text says which, in a user's words."""


@dataclass(frozen=True)
class Settings:
    """What the environment says of the Hub.

    Attributes:
        endpoint: its address, or a mirror's (``HF_ENDPOINT``).
        offline: whether it is not to be asked (``HF_HUB_OFFLINE``).
        cache: where files from it are kept (``HF_HOME``, ``HF_HUB_CACHE``).
        has_token: whether requests are made in somebody's name.
    """

    endpoint: str
    offline: bool
    cache: Path
    has_token: bool


def settings() -> Settings:
    """What the environment says of the Hub; asks nobody."""
    return Settings(
        endpoint=constants.ENDPOINT,
        offline=bool(constants.HF_HUB_OFFLINE),
        cache=Path(constants.HF_HUB_CACHE),
        has_token=bool(huggingface_hub.get_token()),
    )


def ping(repo: str, filename: str, timeout_s: float = 5.0) -> None:
    """Ask the Hub for what it knows of a file, whether or not that is cached; nothing is fetched.

    Raises:
        HubError: as for ``fetch``.
    """
    _check_names(repo, None)
    try:
        if constants.HF_HUB_OFFLINE:
            raise hub_errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        url = huggingface_hub.hf_hub_url(repo, filename)
        about = huggingface_hub.get_hf_file_metadata(url, timeout=timeout_s, library_name="selavpr")
        if about.commit_hash is None:
            raise hub_errors.FileMetadataError("the answer names no commit")
    except Exception as error:
        raise _explained(error, repo, filename, None) from error


def fetch(
    repo: str,
    filename: str,
    revision: str | None = None,
    *,
    repo_type: RepoType = "model",
    refresh: bool = False,
) -> Path:
    """Give the local path of a file in a Hub repository, downloading it when it is not cached.

    Args:
        repo: ``"org/name"``.
        filename: path inside the repository.
        revision: branch, tag or commit; the default branch when None.
        repo_type: what kind of repository it is.
        refresh: ask the Hub for a newer version even when a cached one exists; the cached one is
            given when the Hub cannot be asked.

    Raises:
        HubError: offline, no such repository, revision or file, gated, cut off, or disk full.
    """
    _check_names(repo, revision, filename)
    known = None
    try:
        known = huggingface_hub.try_to_load_from_cache(
            repo, filename, revision=revision, repo_type=repo_type
        )
        if isinstance(known, str) and not refresh:
            return Path(known)
        return _download(repo, filename, revision, repo_type)
    except Exception as error:
        explained = _explained(error, repo, filename, revision)
        if isinstance(known, str):
            logger.warning("Going on with the cached %s of %s: %s", filename, repo, explained)
            return Path(known)
        raise explained from error


def fetch_range(
    repo: str,
    filename: str,
    commit: str,
    start: int,
    stop: int,
    *,
    repo_type: RepoType = "model",
) -> tuple[bytes, int]:
    """Some bytes of a file in a Hub repository; nothing is cached.

    Args:
        repo: ``"org/name"``.
        filename: path inside the repository.
        commit: a commit, since the parts of a file have to be of one version.
        start: first byte.
        stop: the byte after the last.
        repo_type: what kind of repository it is.

    Returns:
        The bytes, fewer at the end of the file, and the size of the whole file.

    Raises:
        HubError: as for ``fetch``; or the server sends only whole files.
    """
    _check_names(repo, commit, filename)
    try:
        url = huggingface_hub.hf_hub_url(repo, filename, revision=commit, repo_type=repo_type)
        headers = build_hf_headers(library_name="selavpr") | {"Range": f"bytes={start}-{stop - 1}"}
        if constants.HF_HUB_OFFLINE:
            raise hub_errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        with http_stream_backoff(
            "GET", url, headers=headers, follow_redirects=True, max_retries=3,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        ) as response:  # fmt: skip
            hf_raise_for_status(response)
            # Before reading: a server that ignores ranges would send gigabytes.
            said = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status_code != 206 or said is None or int(said[1]) != start:
                raise _BrokeOffError("in parts is not offered by this server")
            wanted, data = min(stop, int(said[2])) - start, b""
            latest = time.monotonic() + PATIENCE_S
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > wanted:
                    raise _BrokeOffError("arrived with more bytes than announced")
                # Single bytes may come for ever, each of them in time.
                if time.monotonic() > latest and len(data) < wanted:
                    raise _BrokeOffError("was too slow and was given up")
        if len(data) < wanted:
            raise _BrokeOffError("ended early")
        return data, int(said[2])
    except Exception as error:
        raise _explained(error, repo, filename, commit) from error


def home() -> Path:
    """Where this program may keep what it has fetched in another form than the Hub's cache."""
    return Path(constants.HF_HOME) / "selavpr"


def commit_of(path: Path) -> str | None:
    """The commit a cached file belongs to, so that its siblings can be fetched from the same."""
    for parent in path.parents:
        if parent.parent.name == "snapshots":
            return parent.name
    return None


def alone(lock: Path) -> AbstractContextManager[object]:
    """Wait until no other process or thread is in a block with this lock, and keep them out.

    Args:
        lock: a file to hold, which is made when there is none and stays.
    """
    return WeakFileLock(lock)


def discard_damaged(path: Path) -> bool:
    """Remove a cached file whose bytes are no longer those that the Hub has.

    Returns:
        True when it was removed, so that fetching it again makes sense; False when the file is as
        it was published, or cannot be told.
    """
    blob = path.resolve()
    try:
        if not _CONTENT_HASH.fullmatch(blob.name) or _content_hash(blob) == blob.name:
            return False
        path.unlink()
        blob.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def push(
    folder: Path,
    repo: str,
    *,
    repo_type: RepoType = "model",
    message: str,
    last: str | None = None,
) -> str:
    """Upload a folder to a Hub repository, creating it when it does not exist.

    Args:
        folder: what to upload; its files land at the repository's root.
        repo: ``"org/name"``.
        repo_type: what kind of repository it is.
        message: the commit's first line.
        last: a file without which readers find nothing: it is uploaded when all others are there,
            and with it, files go that the repository has and the folder has not.

    Returns:
        The address of the commit.

    Raises:
        HubError: no token, no right to write there, or the Hub cannot be reached.
    """
    check_pushable(repo)
    try:
        huggingface_hub.create_repo(repo, repo_type=repo_type, exist_ok=True)
        done = huggingface_hub.upload_folder(
            repo_id=repo, folder_path=folder, repo_type=repo_type, commit_message=message,
            ignore_patterns=last,
        )  # fmt: skip
        if last is not None:
            api = huggingface_hub.HfApi()
            have = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
            there = set(api.list_repo_files(repo, repo_type=repo_type))
            gone = sorted(there - have - {".gitattributes"})
            add = huggingface_hub.CommitOperationAdd(last, folder / last)
            done = api.create_commit(
                repo,
                [add, *(huggingface_hub.CommitOperationDelete(name) for name in gone)],
                repo_type=repo_type,
                commit_message=message,
            )
    except Exception as error:
        if _status(error) in (401, 403):
            raise HubError(
                f"The Hub does not let this token write to {repo}: check the organisation's name, "
                "and set HF_TOKEN to a token with write access."
            ) from error
        raise _explained(error, repo, None, None) from error
    return str(done.commit_url)


def check_pushable(repo: str) -> None:
    """Find out cheaply, before long work, that ``push`` would fail.

    Raises:
        HubError: the name is not one the Hub takes, or there is no token.
    """
    _check_names(repo, None)
    if not huggingface_hub.get_token():
        raise HubError(
            f"Pushing to {repo} needs a token with write access: set HF_TOKEN, "
            "or run `hf auth login`."
        )


def _check_names(repo: str, revision: str | None, filename: str = "x") -> None:
    """Refuse what is no name before it becomes part of a path or an address."""
    # The Hub's own rules besides the pattern: these two are reserved, and 96 is the longest name.
    if not _NAME.fullmatch(repo) or "--" in repo or ".." in repo or len(repo) > 96:
        raise HubError(f"{repo!r} is not a Hub repository name; write it as organisation/name.")
    if revision is not None and not _REVISION.fullmatch(revision):
        raise HubError(f"{revision!r} is not a branch, tag or commit of {repo}.")
    if {"", ".", ".."} & set(filename.split("/")) or set(filename) & set("\\:\0"):
        raise HubError(f"{filename!r} is not the name of a file in a repository.")


def _download(repo: str, filename: str, revision: str | None, repo_type: RepoType) -> Path:
    """Bring a file into the cache, going on where an earlier call broke off; gives its path there.

    huggingface_hub 2 deletes what it had when a download breaks off, so that a 1.2 GB file never
    arrives over a line that drops every few minutes; and it makes files of whatever names a server
    gives. Here the bytes are kept, names are checked, and the server is asked only once. The cache
    is laid out as huggingface_hub does it, which shares it.
    """
    url = huggingface_hub.hf_hub_url(repo, filename, revision=revision, repo_type=repo_type)
    about = huggingface_hub.get_hf_file_metadata(
        url, timeout=constants.HF_HUB_ETAG_TIMEOUT, library_name="selavpr"
    )
    etag, size = about.etag, about.size
    commit = about.commit_hash
    # These become parts of paths.
    if not etag or not _CONTENT_HASH.fullmatch(etag) or not commit or not _COMMIT.fullmatch(commit):
        raise hub_errors.FileMetadataError("the answer names no content, or no commit")
    if size is None:
        raise hub_errors.FileMetadataError("the answer names no size")
    pinned = huggingface_hub.hf_hub_url(repo, filename, revision=commit, repo_type=repo_type)
    cache = Path(constants.HF_HUB_CACHE)
    folder = repo_folder_name(repo_id=repo, repo_type=repo_type)
    blob = cache / folder / "blobs" / etag
    lock = cache / ".locks" / folder / f"{etag}.lock"
    pointer = cache / folder / "snapshots" / commit / filename
    for path in (blob, lock, pointer):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not pointer.exists():
            if not blob.exists():
                _complete(blob, pinned, size, filename)
            pointer.unlink(missing_ok=True)  # a link whose content is gone
            try:
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except OSError:  # Windows lets few make one
                blob.replace(pointer)
    if revision != commit:
        reference = cache / folder / "refs" / (revision or constants.DEFAULT_REVISION)
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    return pointer


def _complete(blob: Path, url: str, size: int, filename: str) -> None:
    """Receive what is missing of content, which is named by its hash."""
    partial = blob.with_name(f"{blob.name}.selavpr.incomplete")
    with partial.open("ab") as file:
        if file.tell() > size:
            _empty(file)
        start = file.tell()
        if shutil.disk_usage(blob.parent).free < size - start:
            raise OSError(errno.ENOSPC, f"{_megabytes(size - start)} are needed")
        try:
            _receive(url, file, size, filename)
        except _BrokeOffError:
            raise
        except Exception as error:
            if _status(error) is not None or getattr(error, "errno", None):
                raise
            file.flush()
            have = f"{_megabytes(file.tell())} of {_megabytes(size)}"
            raise _BrokeOffError(f"broke off after {have}") from error
    if _content_hash(partial, len(blob.name)) != blob.name:
        partial.unlink()
        raise _BrokeOffError("arrived damaged")
    partial.replace(blob)


def _receive(url: str, file: BinaryIO, size: int, name: str) -> None:
    """Append what a file lacks, with progress on the terminal; a line that drops is renewed.

    Unlike huggingface_hub's own way, this minds how fast bytes come, and when there are enough.
    """
    tries = TRIES
    with tqdm(  # type: ignore[no-untyped-call]
        desc=name, total=size, initial=file.tell(), unit="B", unit_scale=True, disable=None
    ) as bar:
        while file.tell() < size:
            start = file.tell()
            try:
                _append(url, file, size, bar)
            except Exception as error:
                tries = TRIES if file.tell() >= start + LEAST else tries - 1
                if type(error).__name__ not in _DROPPED or not tries:
                    raise
                time.sleep(1)
            else:
                if file.tell() < size:
                    raise OSError("the answer ended early")


def _append(url: str, file: BinaryIO, size: int, bar: tqdm) -> None:
    start = file.tell()
    headers = build_hf_headers(library_name="selavpr") | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with http_stream_backoff(
        "GET", url, headers=headers, follow_redirects=True, retry_on_exceptions=(),
        retry_on_status_codes=(408, 429), timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
    ) as response:  # fmt: skip
        hf_raise_for_status(response)
        if start and response.status_code != 206:  # the whole file again
            _empty(file)
            bar.update(-start)
        begun, count = time.monotonic(), 0
        for chunk in response.iter_bytes():
            file.write(chunk)
            bar.update(len(chunk))
            count += len(chunk)
            if file.tell() > size:
                _empty(file)
                raise _BrokeOffError("arrived with more bytes than announced")
            if time.monotonic() > begun + PATIENCE_S and file.tell() < size:
                if count < LEAST:
                    raise _BrokeOffError("was too slow and was given up")
                begun, count = time.monotonic(), 0


def _empty(file: BinaryIO) -> None:
    # A file that is appended to does not notice by itself where it ends now.
    file.seek(0)
    file.truncate()


def _content_hash(path: Path, length: int = 0) -> str:
    """The hash the Hub names a file by: SHA-256 of large files, git's SHA-1 of small ones."""
    if (length or len(path.name)) == 64:
        sha = hashlib.sha256()
    else:
        sha = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def _explained(error: Exception, repo: str, filename: str | None, revision: str | None) -> HubError:
    """The sentence for an exception out of huggingface_hub; the most specific class comes first."""
    what = f"{filename} of {repo}" if filename else repo
    cache = constants.HF_HUB_CACHE
    status = _status(error)
    # huggingface_hub wraps what really happened (no network, disk full) in errors of its own.
    chain = _causes(error)
    codes = {e.errno for e in chain if isinstance(e, OSError)}
    if isinstance(error, hub_errors.HFValidationError):
        text = f"{repo!r} is not a Hub repository name; write it as organisation/name."
    elif codes & {errno.ENOSPC, errno.EDQUOT}:
        text = f"There is not enough room for {what}: free some in {cache}, or set HF_HOME to "
        text += "another disk, and try again."
    elif isinstance(error, PermissionError) or (
        isinstance(error, OSError) and error.errno in _NOT_WRITABLE
    ):
        text = f"Cannot write {what} into the cache {cache} ({error.strerror}): make it writable, "
        text += "or set HF_HOME to another folder."
    elif isinstance(error, _BrokeOffError):
        text = f"The download of {what} {error}; run it again"
        text += " and it goes on from there." if "broke off" in str(error) else "."
    elif isinstance(error, hub_errors.GatedRepoError):
        text = (
            f"{repo} is gated: accept its terms on {constants.ENDPOINT}/{repo}, "
            "then set HF_TOKEN to a token of yours and try again."
        )
    elif isinstance(error, hub_errors.DisabledRepoError):
        text = f"The Hub has disabled {repo}; use another one."
    elif isinstance(error, hub_errors.RevisionNotFoundError):
        text = f"{repo} has no revision {revision or 'main'!r}; check the branch, tag or commit."
    elif isinstance(error, hub_errors.RemoteEntryNotFoundError):
        text = f"{repo} has no file {filename}; check that it is a repository for this program."
    elif isinstance(error, hub_errors.RepositoryNotFoundError) or status == 401:
        text = (
            f"The Hub has no repository {repo}, or it is private: "
            "check the name, or set HF_TOKEN to a token that may read it."
        )
    elif status == 403:
        text = f"The Hub does not allow this on {repo} with the present token; check HF_TOKEN."
    elif status == 429:
        text = f"The Hub asks for a pause (too many requests) before {what}; try again in a while."
    elif status is not None:
        text = f"The Hub answered {status} for {what}; try again later."
    elif any(isinstance(e, hub_errors.OfflineModeIsEnabled) for e in chain):
        text = f"{what} is not cached and HF_HUB_OFFLINE is set; unset it to download."
    elif any(isinstance(e, hub_errors.FileMetadataError) for e in chain):
        text = (
            f"{constants.ENDPOINT} does not answer like the Hub for {what}: check HF_ENDPOINT, "
            "and whether a proxy or a login page is in between."
        )
    elif any(type(e).__name__ == "TooManyRedirects" for e in chain):
        text = f"The Hub sends requests for {what} round in circles; check HF_ENDPOINT and proxy."
    elif filename is None:
        text = f"The upload to {what} failed ({_first_line(_root(error))}); run it again."
    else:
        text = f"{what} is not cached and the Hub cannot be reached ({_first_line(error)}); "
        text += "check the network and try again."
    return HubError(text)


def _status(error: Exception) -> int | None:
    """HTTP status of the answer an exception is about; None where there was none."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def _root(error: BaseException) -> BaseException:
    """What an exception was deliberately raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
