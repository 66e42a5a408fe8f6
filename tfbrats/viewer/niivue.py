"""NiiVue, which draws in the browser: its code and licence, read from the installed package `ipyniivue`.

The package's widget carries NiiVue a second time, whole, as the text that its own "save as HTML" writes into a
page. That text is taken: a module with NiiVue's public names, in half of the widget's bytes. None of it lies in
this repository; docs/why/viewer.md says why it comes from there.
"""

import functools
import importlib.metadata
import re
import urllib.parse

from tfbrats.errors import InputError

PACKAGE = "ipyniivue"
# What encodeURIComponent leaves, a million characters of it at least: nothing else there is as long.
_MODULE = re.compile(r'"([A-Za-z0-9%_.!~*\'()-]{1000000,})"')
_NAMES = re.compile(r"export\s*\{[^}]*\bNiivue\b[^}]*\};?\s*$")


class Niivue:
    """What a page needs of it.

    Attributes:
        module: an ES module that exports `Niivue`.
        version: of the package.
        licence: its text, which has to go with the code.
    """

    def __init__(self, module: str, version: str, licence: str):
        self.module = module
        self.version = version
        self.licence = licence


@functools.cache
def installed() -> Niivue:
    """NiiVue of the installed package; nothing of the package is imported.

    Raises:
        InputError: it is not installed, or its widget is built in another way.
    """
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"{PACKAGE} is not installed: `pip install {PACKAGE}`; it draws the viewer."
        ) from error
    licences = [path for path in package.files or () if path.name.upper().startswith("LICENSE")]
    widget = package.locate_file(f"{PACKAGE}/static/widget.js")
    try:
        found = _MODULE.search(widget.read_text(encoding="utf-8"))
        licence = licences[0].read_text(encoding="utf-8")
    except (OSError, IndexError) as error:
        raise _other(package.version) from error
    module = urllib.parse.unquote(found[1]) if found else ""
    if not _NAMES.search(module[-5000:]):
        raise _other(package.version)
    return Niivue(module, package.version, licence.strip())


def _other(version: str) -> InputError:
    return InputError(
        f"{PACKAGE} {version} does not hold NiiVue as tfbrats expects it. Install one that setup.py names: "
        f'pip install "{PACKAGE}>=2.4.4,<2.5".'
    )
