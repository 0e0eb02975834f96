"""What an experiment needs beside its model and recipe: the extra `experiments`.

A script has a frozen dataclass of options, a function from it to a `Recipe`, and
`main`, which makes the command line and the run folder and trains. Each name is
imported when it is first asked for: `read_weights` needs safetensors alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._extras import missing

if TYPE_CHECKING:
    from .check import check_recipe as check_recipe
    from .command import main as main
    from .command import refuses as refuses
    from .config import Count as Count
    from .config import Decay as Decay
    from .config import NonNegative as NonNegative
    from .config import OptionError as OptionError
    from .config import Positive as Positive
    from .config import Range as Range
    from .config import Rate as Rate
    from .config import RunConfig as RunConfig
    from .config import check_config as check_config
    from .evaluation import hold_out as hold_out
    from .loop import fit as fit
    from .memory import keep_memory as keep_memory
    from .optimizers import SGD as SGD
    from .optimizers import AdamW as AdamW
    from .optimizers import Muon as Muon
    from .optimizers import Optimizer as Optimizer
    from .recipe import Recipe as Recipe
    from .schedule import make_schedule as make_schedule
    from .stepping import count_steps as count_steps
    from .store.folder import read_config as read_config
    from .store.folder import read_metrics as read_metrics
    from .store.network import load as load
    from .store.weights import read_weights as read_weights
    from .store.weights import write_weights as write_weights
    from .training import Result as Result
    from .transformations import by_path as by_path
    from .transformations import full_matrix_adam as full_matrix_adam
    from .transformations import keep_norm as keep_norm
    from .transformations import muon_dimensions as muon_dimensions
    from .transformations import with_lookahead as with_lookahead

_MODULE_OF = {
    **dict.fromkeys(("main", "refuses"), "command"),
    **dict.fromkeys(("Count", "Decay", "NonNegative", "OptionError"), "config"),
    "Positive": "config",
    **dict.fromkeys(("Range", "Rate", "RunConfig", "check_config"), "config"),
    "hold_out": "evaluation",
    "fit": "loop",
    "Result": "training",
    "make_schedule": "schedule",
    **dict.fromkeys(("by_path", "full_matrix_adam", "keep_norm"), "transformations"),
    **dict.fromkeys(("muon_dimensions", "with_lookahead"), "transformations"),
    **dict.fromkeys(("AdamW", "Muon", "Optimizer", "SGD"), "optimizers"),
    "keep_memory": "memory",
    "Recipe": "recipe",
    "check_recipe": "check",
    **dict.fromkeys(("read_config", "read_metrics"), "store.folder"),
    "count_steps": "stepping",
    "load": "store.network",
    **dict.fromkeys(("read_weights", "write_weights"), "store.weights"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if _MODULE_OF[name] == "store.weights":
            error.msg = f"there is no {error.name}: pip install safetensors"
            raise
        raise missing("experiments", error) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
