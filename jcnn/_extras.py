"""The error for a missing package of one of jcnn's extras."""

import re
from importlib.metadata import PackageNotFoundError, requires


def missing(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return an error that says how to install the missing package.

    It names packages, so it holds whether or not jcnn can itself be had by name.

    >>> print(missing("data", ModuleNotFoundError(name="PIL")))  # doctest: +ELLIPSIS
    there is no PIL; it belongs to jcnn's extra data: pip install array-record ...
    """
    packages = " ".join(_packages(extra)) or f"'.[{extra}]' in a checkout of jcnn"
    return ModuleNotFoundError(
        f"there is no {error.name}; it belongs to jcnn's extra {extra}: "
        f"pip install {packages}",
        name=error.name,
    )


def _packages(extra: str) -> list[str]:
    """Return the package names of an extra."""
    try:
        lines = requires("jcnn") or []
    except PackageNotFoundError:  # it runs from its sources
        return []
    marked = [re.fullmatch(r"([\w.-]+).*; extra == .(\w+).", line) for line in lines]
    return sorted(match[1] for match in marked if match and match[2] == extra)
