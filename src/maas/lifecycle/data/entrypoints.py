"""Entry points into the owner's Python: `package.module:name` or `path/to/file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_entry(text: str, directory: str, field: str) -> Any:
    """The object that `text` names. This runs the owner's code: never call it in a server.

    Files, and modules that are not installed, are searched in `directory`. Raises InvalidInput
    that names `field` and the missing module or name.
    """
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise InvalidInput(
            f"{field} must be package.module:name or file.py:name; got {shown(text)}", field=field
        )
    with _importing_from(directory):
        module = (
            _file_module(Path(directory, where), field)
            if where.endswith(".py")
            else _named_module(where, field)
        )
    if not hasattr(module, name):
        raise InvalidInput(f"{field}: {where} has no {shown(name)}", field=field)
    return getattr(module, name)


def call_entry(entry: Any, arguments: dict[str, Any], text: str, table: str) -> Any:
    """The result of `entry(**arguments)`. Raises InvalidInput if it does not take them."""
    if not callable(entry):
        raise InvalidInput(f"{text} cannot be called", field=table)
    try:
        inspect.signature(entry).bind(**arguments)
    except TypeError as error:
        raise InvalidInput(
            f"{table}.arguments do not fit {text}: {error}", field=f"{table}.arguments"
        ) from None
    except ValueError:
        pass  # compiled code may have no signature
    return entry(**arguments)


def entry_digest(entry: Any) -> str:
    """SHA-256 of the file that defines `entry`; '' if there is none, as for compiled code."""
    module = sys.modules.get(getattr(entry, "__module__", ""))
    path = getattr(module, "__file__", None)
    if not path or not Path(path).is_file():
        return ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@contextmanager
def _importing_from(directory: str) -> Iterator[None]:
    sys.path.insert(0, str(Path(directory).absolute()))
    try:
        yield
    finally:
        sys.path.pop(0)


def _named_module(name: str, field: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise InvalidInput(
            f"{field}: there is no module {shown(missing.name)}; it must be installed or be in "
            "the recipe's directory",
            field=field,
        ) from None


def _file_module(path: Path, field: str) -> ModuleType:
    if not path.is_file():
        raise InvalidInput(f"{field}: there is no file {path}", field=field)
    content = path.read_bytes()
    # The content is part of the name, so that an edited file is loaded again.
    key = hashlib.sha256(str(path.absolute()).encode() + content).hexdigest()[:12]
    name = f"maas_entry_{path.stem}_{key}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{field}: {path} is not a Python file", field=field)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
