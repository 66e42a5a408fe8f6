"""Brain tumour segmentation in BraTS MRI: published methods, from NIfTI files to a served model.

    import tfbrats
    tfbrats.find_cases, load_case, simulate_case    patients
    tfbrats.load_model, score                       segment, and how good it is
    tfbrats.build_network, read_records, train_model

Importing this package imports no TensorFlow, nor NumPy: a name is loaded when it is first asked for, from the
modules that do the work (`tfbrats.api`); those that need TensorFlow load it when they are called.
"""

from tfbrats.machine import surroundings

__version__ = "0.1.0"

surroundings.prepare()  # before any other import: it is about what these would read and where they would look

# Name -> the module that has it. No name is a submodule's. What editors and type checkers see is __init__.pyi.
_LAZY = {
    "find_cases": "tfbrats.api",
    "load_case": "tfbrats.api",
    "simulate_case": "tfbrats.api",
    "load_model": "tfbrats.api",
    "score": "tfbrats.api",
    "build_network": "tfbrats.api",
    "read_records": "tfbrats.api",
    "train_model": "tfbrats.api",
    "InputError": "tfbrats.errors",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    """A name of `_LAZY`, loaded now (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'tfbrats' has no attribute {name!r}")
    # As importlib.import_module does, which a bare import of this package need not load.
    value = getattr(__import__(_LAZY[name], fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
