"""Every error a user can cause or meet, in one tree.

A known error is shown as one line that says what to do; anything outside this tree is a bug.

    PneumoniaFLError
    ├── ConfigError        a job YAML, a --set value, a name that does not exist
    ├── OutputError        an output folder that exists, cannot be written or is full
    ├── DataError          a source, an image, a prepared folder
    │   ├── ArchiveError   a zip that must not be opened
    │   ├── FetchError     Kaggle refused, is away or broke off
    │   └── LeakError      a test image is also in the training set
    ├── StorageError       the disk or share with the images fails, so that no image can be blamed
    ├── CheckpointError    a model file that is unsafe or does not fit
    ├── KitError           a startup kit, its certificate or its settings
    └── RunError           a federated run that did not end well
        ├── SiteError      … because of one site
        ├── AnswerError    (an invalid result of one site; the run continues without it)
        ├── TimeLimitError … because something took longer than it may (exit code 3)
        ├── RefusedError   … because the server refused it (exit code 4)
        └── IncompleteError … it ended, but without one of its sites (exit code 5)
"""


class PneumoniaFLError(Exception):
    """Root of the tree; catch this at the command line."""

    exit_code = 1


class ConfigError(PneumoniaFLError):
    """A setting is unknown, contradictory or of the wrong type."""


class OutputError(PneumoniaFLError):
    """Results cannot be written where the user asked."""


class DataError(PneumoniaFLError):
    """Images, labels or a prepared folder are missing or wrong."""


class ArchiveError(DataError):
    """An archive has unsafe entries (.., absolute paths, links, bombs) or is broken."""


class FetchError(DataError):
    """The data set could not be downloaded."""


class LeakError(DataError):
    """A held-out test image is also a training image."""


class StorageError(PneumoniaFLError):
    """A disk or share does not give its files; leaving images out for that would change the data silently."""


class CheckpointError(PneumoniaFLError):
    """A model file is unsafe, broken or does not match its model."""


class KitError(PneumoniaFLError):
    """A startup kit is missing, incomplete, changed or out of date."""


class RunError(PneumoniaFLError):
    """A federated run failed or was stopped."""


class SiteError(RunError):
    """A federated run failed because of one site, which the message names."""


class AnswerError(RunError):
    """The result of a site is invalid; the message names the fault, and the run continues without it."""


class TimeLimitError(RunError):
    """The server, a site or a job did not answer within the time it has."""

    exit_code = 3


class RefusedError(RunError):
    """The server refused: no such right, an unknown job, a job that breaks a policy."""

    exit_code = 4


class IncompleteError(RunError):
    """A run ended, but a site never contributed to it."""

    exit_code = 5
