# What editors and type checkers see of the names that __init__.py loads when they are asked for.
from tfbrats.api import build_network as build_network
from tfbrats.api import find_cases as find_cases
from tfbrats.api import load_case as load_case
from tfbrats.api import load_model as load_model
from tfbrats.api import read_records as read_records
from tfbrats.api import score as score
from tfbrats.api import simulate_case as simulate_case
from tfbrats.api import train_model as train_model
from tfbrats.errors import InputError as InputError

__version__: str
__all__: list[str]
