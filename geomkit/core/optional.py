"""Heavy libraries, imported when a source needs one, with a message that says how to get it."""

import importlib
from typing import Any

from geomkit.errors import SourceUnavailableError


def require(module: str) -> Any:
    """Import a module of the `sources` extra.

    Parameters
    ----------
    module : str
        Dotted name, such as "sklearn.decomposition".

    Returns
    -------
    module

    Raises
    ------
    SourceUnavailableError
        The library is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as why:
        msg = f"{module} cannot be imported ({why}); install what the sources need: pip install 'geomkit[sources]'"
        raise SourceUnavailableError(msg) from why
