"""Files of a repository of the Hugging Face hub, read by ranges: its headers are fetched, its weights never."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from planner.errors import CheckpointError, UnknownNameError
from planner.headers.choose import GGUF
from planner.headers.source import Source
from planner.sources import hub_answers

RETRIES = 2
TIMEOUT_SECONDS = 20
PARTIAL, WHOLE = 206, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """File of a repository.

    Attributes
    ----------
    repository, revision, path : str
        Where it lies; the revision is a commit, so that all reads see the same file.
    size_bytes : int
        As the hub states it. [B]
    """

    repository: str
    revision: str
    path: str
    size_bytes: int

    @property
    def name(self) -> str:
        """For errors."""
        return f"hub: {self.repository}/{self.path}"

    def read(self, start: int, length: int) -> bytes:
        """See `Source.read`; the connection is closed once the range is there, whatever else the server sends.

        Raises
        ------
        CheckpointError
            The hub refuses, breaks off, or does not know ranges.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # loaded lazily, so not seen by mypy
            build_hf_headers,
            hf_raise_for_status,
            http_stream_backoff,
        )

        if length <= 0:
            return b""
        headers = {
            **build_hf_headers(),
            "Range": f"bytes={start}-{start + length - 1}",
            "Accept-Encoding": "identity",
        }
        url = hf_hub_url(self.repository, self.path, revision=self.revision)
        try:
            with http_stream_backoff(
                "GET", url, headers=headers, max_retries=RETRIES, timeout=TIMEOUT_SECONDS, follow_redirects=True
            ) as response:
                hf_raise_for_status(response)
                if response.status_code != PARTIAL and not (response.status_code == WHOLE and start == 0):
                    raise CheckpointError("is served whole only, expected a server that knows ranges", file=self.name)
                held = bytearray()
                for piece in response.iter_bytes(chunk_size=2**16):
                    held += piece
                    if len(held) >= length:
                        break
                return bytes(held[:length])
        except HfHubHTTPError as error:
            raise CheckpointError(f"the hub answered {error.response.status_code}", file=self.name) from None
        except (OSError, _transport_errors()) as error:
            raise CheckpointError(f"the hub broke off: {type(error).__name__}", file=self.name) from None


def _transport_errors() -> type[Exception]:
    """What huggingface_hub's client raises where a connection fails."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # loaded lazily

    # The client has changed its package before: requests, httpx, httpx2.
    error: type[Exception] = import_module(type(get_session()).__module__.partition(".")[0]).HTTPError
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """Repository at one commit, seen as a folder.

    Attributes
    ----------
    repository, revision : str
        Its id, and the commit.
    sizes : mapping of str to int
        Its files by path, of those in folders only GGUF. [B]
    """

    repository: str
    revision: str
    sizes: Mapping[str, int]

    @property
    def name(self) -> str:
        """For errors."""
        return f"hub: {self.repository}"

    def open(self, filename: str) -> Source:
        """File of that path."""
        return HubFile(
            repository=self.repository, revision=self.revision, path=filename, size_bytes=self.sizes[filename]
        )

    def describe(self, filename: str) -> str:
        """The file for errors."""
        return f"{self.name}/{filename}"


def find_repository(repository: str) -> HubRepository:
    """Repository of the hub with the sizes of its files, in one request.

    Raises
    ------
    UnknownNameError
        There is none of that name, it wants a login, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    unreachable = UnknownNameError(f"'{repository}' is not in the cache, and the hub cannot be reached")
    if not hub_answers():
        raise unreachable
    try:
        found = HfApi().model_info(repository, files_metadata=True, timeout=TIMEOUT_SECONDS)
    except HFValidationError:
        raise UnknownNameError(f"'{repository}': no such path, and no name that the hub allows") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = "needs a login or an accepted licence" if status in (401, 403) else f"answered {status}"
        raise UnknownNameError(f"'{repository}': the hub {reason}") from None
    except (OSError, OfflineModeIsEnabled, _transport_errors()):
        raise unreachable from None
    sizes = {
        file.rfilename: file.size
        for file in found.siblings or ()
        # In folders lie the parts of quantised GGUFs, but also weights of other models and of other frameworks.
        if ("/" not in file.rfilename or file.rfilename.endswith(GGUF)) and isinstance(file.size, int)
    }
    return HubRepository(repository=repository, revision=found.sha or "main", sizes=sizes)
