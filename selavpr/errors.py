"""The exceptions this package raises on purpose.

Every message is one or two plain sentences that say what is wrong and what to do about it, fit to
be shown to a user as they stand::

    SelaVPRError
    ├── PhotoError       a photo that cannot be opened or is not usable
    ├── OptionError      an option or argument outside its domain
    ├── LocationError    coordinates outside the globe, swapped or unreadable
    ├── WeightsError     weights that are missing, damaged or belong to another network
    │   └── HubError     weights or an index that could not be fetched from the Hugging Face Hub
    ├── IndexFileError   an index that is missing, damaged or built with another model
    ├── DownloadError    something that a server does not give, or that is not asked for
    └── StoppedError     downloads that were stopped while one waited for its turn
"""

LONGEST = 1000
"""Characters of a message; the names and cells that it quotes may be a stranger's."""


class SelaVPRError(Exception):
    """Base of all errors a user can cause; its text is safe to show: one line, of bounded length.

    What is too long is cut in the middle: the end often says what to do.
    """

    def __init__(self, message: str = "") -> None:
        """Keep the sentences."""
        line = " ".join(message.splitlines())
        if len(line) > LONGEST:
            line = f"{line[: LONGEST - 300]} … {line[-290:]}"
        super().__init__(line)


class PhotoError(SelaVPRError):
    """A photo cannot be opened, or is unusable (too small, too large, animated)."""


class OptionError(SelaVPRError):
    """An option or argument is outside its domain."""


class LocationError(SelaVPRError):
    """Coordinates are not a place on Earth, or cannot be read as coordinates."""


class WeightsError(SelaVPRError):
    """Weights are missing, damaged, or belong to another network."""


class HubError(WeightsError):
    """Something could not be fetched from (or pushed to) the Hugging Face Hub."""


class IndexFileError(SelaVPRError):
    """An index is missing, damaged, or was built with another model."""


class DownloadError(SelaVPRError):
    """Something cannot be downloaded.

    Attributes:
        status: the server's answer, such as 404; None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        """Keep the status beside the sentence."""
        super().__init__(message)
        self.status = status


class StoppedError(SelaVPRError):
    """The downloads were stopped while this one waited."""
