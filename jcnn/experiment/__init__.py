"""What an experiment needs beside its model and recipe: needs `jcnn[experiments]`.

A script has a frozen dataclass of options, a function from it to a `Recipe`, and
`main`, which makes the command line and the run folder and trains.
"""

from .command import main as main
from .command import refuses as refuses
from .config import Count as Count
from .config import NonNegative as NonNegative
from .config import OptionError as OptionError
from .config import Positive as Positive
from .config import Range as Range
from .config import Rate as Rate
from .config import RunConfig as RunConfig
from .config import check_config as check_config
from .fit import Recipe as Recipe
from .fit import Result as Result
from .fit import fit as fit
from .impl import read_impl as read_impl
from .memory import keep_memory as keep_memory
from .run_folder import read_config as read_config
from .run_folder import read_metrics as read_metrics
from .stepping import count_steps as count_steps
from .weights import read_weights as read_weights
from .weights import write_weights as write_weights
