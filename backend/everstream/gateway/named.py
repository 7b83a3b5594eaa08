"""`everstream serve MODULE:APP`: from the name of an application to the application.

The name and not the object goes to further processes: each imports the module for itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

from everstream.gateway.application import App

DEFAULT_NAME = "app"


class NoSuchApp(ValueError):
    """The name leads to no application; the message says what is wrong with it."""


def app_named(name: str) -> App:
    """Import the application `MODULE:APP` (without `:APP` it is `app`); modules are looked for here first, too.

    Raises NoSuchApp; what the module itself raises comes as it is.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module_name, _, attribute = name.partition(":")
    attribute = attribute or DEFAULT_NAME
    if module_name.endswith(".py"):
        raise NoSuchApp(
            f"{module_name} is a file: name the module, as in {module_name[:-3].replace('/', '.')}:{attribute}"
        )
    if not module_name or not _exists(module_name):
        raise NoSuchApp(f"there is no module `{module_name}`, neither in {here} nor among the installed ones")
    module = importlib.import_module(module_name)
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, App):
        return found
    apps = ", ".join(f"{module_name}:{name}" for name, value in vars(module).items() if isinstance(value, App))
    hint = f"; there is {apps}" if apps else ""
    if found is None:
        raise NoSuchApp(f"{module_name} has no {attribute}{hint}")
    kind = type(found).__name__
    raise NoSuchApp(f"{module_name}:{attribute} is no application of everstream.create_app(), but a {kind}{hint}")


def _exists(module_name: str) -> bool:
    """Whether there is such a module; its packages are imported for that."""
    package = module_name.rpartition(".")[0]
    if package and not _exists(package):
        return False
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ValueError, ModuleNotFoundError):  # not a package, or a name that none can have
        return False
