"""Exceptions for the user. Each message contains what is wrong, where, and what to do.

HTCError
├── ConfigError       an invalid configuration value, preset name or option; also a ValueError
├── CheckpointError   a weights file that is missing, damaged, refused or of another architecture
├── DataError         an image, annotation file or folder that is unusable
├── TrainingError     a training that cannot continue: a loss that is not finite
├── ExportError       a model that cannot be exported, or whose exported file computes something else
├── OutputError       a path that cannot be written to
├── InstallationError packages that are missing or incompatible
└── ReportedElsewhereError  an error that another process reports
"""


class HTCError(Exception):
    """Base class of all errors for the user; the command line prints the message without a traceback and exits with
    2.
    """


class ConfigError(HTCError, ValueError):
    """An invalid configuration value, preset name or option; also a `ValueError`."""


class CheckpointError(HTCError):
    """A weights file that is missing, damaged, refused or of another architecture."""


class DataError(HTCError):
    """An unusable image, annotation file or folder."""


class TrainingError(HTCError):
    """A training that cannot continue: a loss that is not finite."""


class ExportError(HTCError):
    """A model that cannot be exported, or whose exported file computes something else."""


class OutputError(HTCError):
    """A path that cannot be written to: a file instead of a folder, no permission, no free space."""


class InstallationError(HTCError):
    """Packages that are missing, such as those of an extra, or incompatible, such as a torchvision built for another
    torch.
    """


class RenamedWarning(FutureWarning):
    """Use of the old name of an option or configuration field, which is accepted for one release."""


class ReportedElsewhereError(HTCError):
    """An error that ends all processes and that the first one reports: the other processes print nothing."""
