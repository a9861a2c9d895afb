"""Files from and to the Hugging Face Hub, with one clear sentence for everything that can go wrong.

The only module that knows huggingface_hub. Files live in its shared cache (``HF_HOME``); one that
is there is used without asking the network, so a machine that is offline loses no time. A download
that broke off is resumed by the next call.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import errors as hub_errors

from selavpr.errors import HubError

RepoType = Literal["model", "dataset", "space"]


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
        refresh: ask the Hub for a newer version even when a cached one exists.

    Raises:
        HubError: offline, no such repository, revision or file, gated, cut off, or disk full.
    """
    try:
        if not refresh:
            cached = huggingface_hub.try_to_load_from_cache(
                repo, filename, revision=revision, repo_type=repo_type
            )
            if isinstance(cached, str):
                return Path(cached)
        return Path(
            huggingface_hub.hf_hub_download(
                repo, filename, revision=revision, repo_type=repo_type, library_name="selavpr"
            )
        )
    except Exception as error:
        raise _explained(error, repo, filename, revision) from error


def push(folder: Path, repo: str, *, repo_type: RepoType = "model", message: str) -> str:
    """Upload a folder to a Hub repository, creating it when it does not exist.

    Args:
        folder: what to upload; its files land at the repository's root.
        repo: ``"org/name"``.
        repo_type: what kind of repository it is.
        message: the commit's first line.

    Returns:
        The address of the commit.

    Raises:
        HubError: no token, no right to write there, or the Hub cannot be reached.
    """
    try:
        huggingface_hub.create_repo(repo, repo_type=repo_type, exist_ok=True)
        done = huggingface_hub.upload_folder(
            repo_id=repo, folder_path=folder, repo_type=repo_type, commit_message=message
        )
    except hub_errors.LocalTokenNotFoundError as error:
        raise HubError(f"Pushing to {repo} needs a token: set HF_TOKEN.") from error
    except Exception as error:
        raise _explained(error, repo, None, None) from error
    return str(done.commit_url)


def _explained(error: Exception, repo: str, filename: str | None, revision: str | None) -> HubError:
    """The sentence for an exception out of huggingface_hub; the most specific class comes first."""
    what = f"{filename} of {repo}" if filename else repo
    status = getattr(getattr(error, "response", None), "status_code", None)
    # huggingface_hub wraps what really happened (no network, disk full) in errors of its own.
    chain = _causes(error)
    if any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain):
        cache = huggingface_hub.constants.HF_HUB_CACHE
        text = f"The disk is full: make room in {cache}, or point HF_HOME elsewhere, and try again."
    elif isinstance(error, hub_errors.HFValidationError):
        text = f"{repo!r} is not a Hub repository name; write it as organisation/name."
    elif isinstance(error, hub_errors.GatedRepoError):
        text = (
            f"{repo} is gated: accept its terms on huggingface.co/{repo}, "
            "then set HF_TOKEN to a token of yours and try again."
        )
    elif isinstance(error, hub_errors.DisabledRepoError):
        text = f"The Hub has disabled {repo}; use another model."
    elif isinstance(error, hub_errors.RevisionNotFoundError):
        text = f"{repo} has no revision {revision!r}; check the branch, tag or commit."
    elif isinstance(error, hub_errors.RepositoryNotFoundError) or status == 401:
        text = (
            f"The Hub has no repository {repo}, or it is private: "
            "check the name, or set HF_TOKEN to a token that may read it."
        )
    elif isinstance(error, hub_errors.RemoteEntryNotFoundError):
        text = f"{repo} has no file {filename}; it is not a SelaVPR repository."
    elif status == 403:
        text = f"The Hub does not allow this on {repo} with the present token; check HF_TOKEN."
    elif status is not None:
        text = f"The Hub answered {status} for {what}; try again later."
    elif any(isinstance(e, hub_errors.OfflineModeIsEnabled) for e in chain):
        text = f"{what} is not cached and HF_HUB_OFFLINE is set; unset it to download."
    elif isinstance(error, hub_errors.LocalEntryNotFoundError):
        text = f"{what} is not cached and the Hub cannot be reached; check the network."
    else:
        text = f"The download of {what} broke off ({error}); run it again and it will resume."
    return HubError(text)


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain
