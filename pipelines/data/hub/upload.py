"""Upload a folder to the Hugging Face hub, in one commit."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UnreachableError, UserError
from pipelines.data.hub.download import size_text
from pipelines.data.hub.repository import HUB, PROGRAM, TIMEOUT, Repository, repository


def push_target(name: str) -> Repository:
    """Return the repository to upload to, before anything is computed.

    Args:
        name: ORG/NAME.

    Raises:
        BadArgumentsError: The name has another form.
        BadInputError: No token is stored, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants, get_token

    try:
        target = repository(name)
    except BadInputError:
        target = Repository("")
    if "/" not in target.name or target.revision:
        raise BadArgumentsError(
            f"--push {name}: write ORG/NAME, where ORG is your user name or an organization"
        )
    if constants.is_offline_mode():
        raise BadInputError(f"--push {name} needs the hub, but HF_HUB_OFFLINE is set; unset it")
    if not get_token():
        raise BadInputError(
            f"--push {name} needs a token that may write: log in with hf auth login, or set"
            " HF_TOKEN"
        )
    return target


def push(folder: Path, target: Repository) -> str:
    """Upload all files of a folder; return the URL of the commit.

    A new repository is private. In an existing one, files of the same names are replaced, and
    others stay.

    Raises:
        BadInputError: The token must not write to this repository.
        UnreachableError: The hub does not respond; the message has the command to try again.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    # huggingface_hub 2.4 passes a deprecated argument to its HTTP client.
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(library_name=PROGRAM)
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    paths = {name: path for name, path in paths.items() if path.is_file()}
    try:
        parent = _prepare(api, target, set(paths))
        names = [f"{name} ({size_text(path.stat().st_size)})" for name, path in paths.items()]
        say(f"uploading {', '.join(names)}")
        operations = [CommitOperationAdd(name, str(path)) for name, path in paths.items()]
        commit = _commit(api, target, operations, parent)
    except (UserError, OSError) as error:
        # The hub's own protocol, which the client uses for large files if hf_xet is installed.
        xet = "HF_HUB_DISABLE_XET=1 " if "xet" in str(error) else ""
        say(f"{folder} is complete; to upload it again: {xet}hf upload {target.name} {folder}")
        if isinstance(error, UserError):
            raise
        raise _failed(target, error) from None
    say(f"{HUB}{target.name}: commit {commit.oid[:12]}, {commit.commit_url}")
    return str(commit.commit_url)


def _commit(api: Any, target: Repository, operations: list[Any], parent: str | None) -> Any:
    """Upload the files in one commit."""
    try:
        return target.request(
            lambda: api.create_commit(
                target.name,
                operations,
                commit_message="Upload a model of bert-jax",
                parent_commit=parent,
            )
        )
    except UserError:
        raise
    except Exception as error:  # of any type, if the upload of a large file fails
        raise _failed(target, error) from None


def _failed(target: Repository, error: Exception) -> UnreachableError:
    text = " ".join(f"{error} {error.__cause__ or ''}".split())[:200]
    return UnreachableError(f"{target}: the upload failed ({text}); try it again")


def _prepare(api: Any, target: Repository, names: set[str]) -> str | None:
    """Create the repository, or report what it contains; return its last commit."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def info() -> Any:
        try:
            return api.repo_info(target.name, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            return None

    existing = target.request(info)
    if existing is None:
        target.request(lambda: api.create_repo(target.name, private=True))
        say(
            f"created the private repository {api.endpoint}/{target.name}; its settings can make it"
            " public"
        )
        return None
    others = {item.rfilename for item in existing.siblings or ()}
    replaced = ", ".join(sorted(names & others)) or "none"
    say(
        f"{HUB}{target.name} exists, at commit {str(existing.sha)[:12]}; files that the new commit"
        f" replaces: {replaced}; others that stay: {len(others - names)}"
    )
    return str(existing.sha) if existing.sha else None
