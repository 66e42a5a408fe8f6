"""Which files are opened for reading: what says "read once" is counted here."""

import builtins
import os


def for_reading(monkeypatch, name: str) -> list[str]:
    """A list that grows by the path of each file of this name, whenever one is opened to be read."""
    real, paths = builtins.open, []

    def counting(file, mode="r", *more, **how):
        if isinstance(file, str | os.PathLike) and os.path.basename(file) == name and "r" in mode:
            paths.append(os.fspath(file))
        return real(file, mode, *more, **how)

    monkeypatch.setattr(builtins, "open", counting)
    return paths
