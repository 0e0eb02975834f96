"""Who computes the convolutions of a run: a name, or what the tuner has measured."""

from pathlib import Path

from .._files import write_file
from ..engine.choices import Impl
from ..tuning import load
from .config import OptionError

_NAMES = ("auto", "lax")


def read_impl(impl: str) -> Impl:
    """The argument `impl` of convolutions that the option --impl stands for.

    Args:
        impl: "auto", "lax", or the path of a file that `experiments.tune` has written.

    Raises:
        OptionError: If it is no name and no such file can be read.

    >>> read_impl("auto")
    'auto'
    """
    if impl in _NAMES:
        return impl
    try:
        return load(impl)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--impl: {impl} is neither {' nor '.join(_NAMES)} nor a file of choices: "
            f"{error}"
        ) from error


def keep_choices(run_dir: Path, impl: str) -> None:
    """Copies a run's file of choices, if it has one, to `tuned.json` in its folder.

    Raises:
        OptionError: As `read_impl`.

    >>> keep_choices(Path("nowhere"), "lax")
    """
    if impl not in _NAMES:
        read_impl(impl)
        write_file(run_dir / "tuned.json", Path(impl).read_bytes())


def kept_impl(run_dir: Path, impl: str) -> str:
    """What --impl stands for in a run that goes on: the run's own copy of the file.

    >>> kept_impl(Path("run"), "auto"), Path(kept_impl(Path("run"), "a.json")).name
    ('auto', 'tuned.json')
    """
    return impl if impl in _NAMES else str(run_dir / "tuned.json")
