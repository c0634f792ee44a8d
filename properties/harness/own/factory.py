"""Finds and calls a user's factory: FILE.py:name or package.module:name.

Whatever goes wrong in it is a usage error: one sentence and the place in the
user's file, never a traceback into the harness.
"""

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, Tuple

import pytest
import torch

from frostproof.properties.harness.own import anatomy
from frostproof.properties.harness.own.findings import named


def _users(problem: BaseException) -> "list[traceback.FrameSummary]":
    """The frames of an error that are not in the harness, Python or torch; all, where none is left."""
    frames = list(traceback.extract_tb(problem.__traceback__))
    library, harness = os.path.dirname(os.__file__), str(Path(__file__).parent)
    outside = [
        frame
        for frame in frames
        if not frame.filename.startswith((harness, library, "<"))
        and "site-packages" not in frame.filename
    ]
    return outside or frames


def frames_of(problem: BaseException) -> str:
    """The lines of the user's code through which an error came, as a traceback shows them."""
    return "".join(traceback.format_list(_users(problem))).rstrip()


def _place(problem: BaseException) -> str:
    """Where an error came from: the last line of it that is not in the harness, Python or torch."""
    chosen = _users(problem)[-1:]
    return "".join(f" ({frame.filename}:{frame.lineno})" for frame in chosen)


def said(problem: BaseException) -> str:
    """An error in one line: its type, its first line, its place."""
    if isinstance(problem, SyntaxError):
        return f"{type(problem).__name__}: {problem.msg} ({problem.filename}:{problem.lineno})"
    text = str(problem).strip().split("\n")[0]
    return f"{type(problem).__name__}{': ' * bool(text)}{text}{_place(problem)}"


def _load_file(option: str, path: Path) -> Any:
    if not path.is_file():
        raise pytest.UsageError(f"{option}: there is no file {path}")
    name = f"frostproof_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise pytest.UsageError(f"{option}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that the file can import what lies beside it
    spec.loader.exec_module(module)
    return module


def load(option: str, text: str, folder: Path) -> Callable[..., Any]:
    """The callable that ``text`` names; relative files are looked up in ``folder``.

    Raises pytest.UsageError where it cannot be found or imported.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name or name.endswith(".py"):  # C:\\FILE.py has a colon too
        raise pytest.UsageError(f"{option} {text}: write FILE.py:factory or package.module:factory")
    is_file = place.endswith(".py") or os.sep in place
    try:
        if is_file:
            module = _load_file(option, Path(folder, Path(place).expanduser()))
        else:
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
            module = importlib.import_module(place)
    except pytest.UsageError:
        raise
    except (Exception, SystemExit) as problem:
        raise pytest.UsageError(f"{option} {text}: importing {place} failed: {said(problem)}") from None
    factory: Any = module
    for part in name.split("."):
        if not hasattr(factory, part):
            known = [
                n
                for n, v in vars(module).items()
                if inspect.isfunction(v) and v.__module__ == module.__name__
            ]
            raise pytest.UsageError(
                f"{option} {text}: {place} has no {name}"
                + (f"; it has {', '.join(known)}" if known else "")
            )
        factory = getattr(factory, part)
    if not callable(factory):
        raise pytest.UsageError(
            f"{option} {text}: {name} is not callable, but {type(factory).__name__}"
        )
    return factory  # type: ignore[no-any-return]


def accepts(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a call with these arguments fits the signature; True where it has none to look at."""
    if isinstance(function, torch.nn.Module):
        function = function.forward
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def call(option: str, text: str, factory: Callable[..., Any], *arguments: Any) -> Any:
    """What the factory returns. Raises pytest.UsageError where it cannot be called or fails."""
    if not accepts(factory, *arguments):
        wants = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
        raise pytest.UsageError(
            f"{option} {text}: the factory is called with {wants}, but its signature is "
            f"{inspect.signature(factory)}: give the others defaults"
        )
    try:
        return factory(*arguments)
    except (Exception, SystemExit) as problem:
        hint = ""
        if "empty parameter list" in str(problem):
            hint = "; a filter or generator of parameters can be used only once: make it a list"
        raise pytest.UsageError(f"{option} {text}: the factory raised {said(problem)}{hint}") from None


def parts(option: str, text: str, result: Any, shapes: Tuple[str, ...], least: int) -> Tuple[Any, ...]:
    """The factory's tuple, checked for its length; ``shapes`` says what each part is."""
    wanted = f"({', '.join(shapes[:least])})" + "".join(
        f" or ({', '.join(shapes[:count])})" for count in range(least + 1, len(shapes) + 1)
    )
    if not isinstance(result, tuple) or not least <= len(result) <= len(shapes):
        came = type(result).__name__
        if isinstance(result, tuple):
            came = f"a tuple of {len(result)}"
        raise pytest.UsageError(
            f"{option} {text}: the factory must return {wanted}, but returned {came}"
        )
    return result


def check_module(option: str, text: str, module: Any) -> None:
    """Raise pytest.UsageError for what is no module, or has parameters without shape or data."""
    if not isinstance(module, torch.nn.Module):
        raise pytest.UsageError(
            f"{option} {text}: the first of what the factory returns must be an nn.Module, "
            f"but is {type(module).__name__}"
        )
    unfinished = anatomy.lazy(module)
    if unfinished:
        raise pytest.UsageError(
            f"{option} {text}: lazy parameters have no shape yet ({named(unfinished)}): run one "
            "batch through the module in the factory"
        )
    empty = anatomy.without_data(module)
    if empty:
        raise pytest.UsageError(
            f"{option} {text}: parameters on the meta device hold no data ({named(empty)}): "
            "load them in the factory"
        )
