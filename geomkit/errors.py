"""Every exception that geomkit raises.

All derive from `GeomkitError`, so a caller can catch the package's own refusals and let bugs through. A message says
which argument was wrong, what it was, and what it must be.
"""


class GeomkitError(Exception):
    """Base of every error that geomkit raises on purpose."""


class InvalidInputError(GeomkitError, ValueError):
    """An argument cannot be measured: its shape, dtype, values or name."""


class BackendUnavailableError(GeomkitError, RuntimeError):
    """The backend that was asked for cannot run here; nothing was substituted."""


class DeviceMemoryError(GeomkitError, RuntimeError):
    """A device has no room even for the smallest tile of pairs."""


class ClusterError(GeomkitError, RuntimeError):
    """Workers or their scheduler are gone, or cannot do what they were asked to."""


class StorageError(GeomkitError, RuntimeError):
    """Partial results cannot be written, or cannot be read again: a full disk, a folder in use, a damaged file."""


class UnknownSourceError(GeomkitError, LookupError):
    """No source has that name."""


class SourceUnavailableError(GeomkitError, RuntimeError):
    """A source exists but cannot be had here: no network, a missing library, a package that is gone, a full disk."""


class IntegrityError(GeomkitError, RuntimeError):
    """Fetched or cached data is not what the catalogue says: checksum, size, a truncated or hostile archive."""
