"""The errors a user can meet. Each message says what is wrong, where, and what to do.

HTCError
├── ConfigError       a configuration value, preset name or flag that cannot be used; also a ValueError
├── CheckpointError   a weights file that is missing, damaged, refused or of another architecture
├── DataError         an image, annotation file or folder that cannot be used
├── TrainingError     a training that cannot go on: a loss that is not finite
├── OutputError       a place that cannot be written to
├── InstallationError packages that are missing or do not fit together
└── ReportedElsewhereError  an error that another of several processes reports
"""


class HTCError(Exception):
    """Base of all errors meant for the user; the command line prints it without a traceback and exits with 2."""


class ConfigError(HTCError, ValueError):
    """A configuration value, preset name or flag that cannot be used; also a `ValueError`."""


class CheckpointError(HTCError):
    """A weights file that is missing, damaged, refused or of another architecture."""


class DataError(HTCError):
    """An image, annotation file or folder that cannot be used."""


class TrainingError(HTCError):
    """A training that cannot go on: a loss that is not finite."""


class OutputError(HTCError):
    """A place that cannot be written to: a file where a folder should be, no permission, no space left."""


class InstallationError(HTCError):
    """Packages that are missing, such as those of an extra, or do not fit together, such as a torchvision built for
    another torch.
    """


class RenamedWarning(FutureWarning):
    """An old name of an option or configuration field, which is accepted for one release."""


class ReportedElsewhereError(HTCError):
    """An error that ends all of several processes and that the first of them reports: the others have nothing to
    say.
    """
