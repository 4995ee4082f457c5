"""Makes Triton's interpreter bearable."""

import inspect
import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter():
    """Whenever one device function calls another, the interpreter searches all of `triton.language` for
    what it must replace, which takes half of its time. What there is to replace never changes.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from triton.runtime import interpreter

    builtins: dict[object, list] = {}

    def patch_builtin(package, builder, scope):
        if package not in builtins:
            members = inspect.getmembers(package)
            builtins[package] = [pair for pair in members if interpreter.tl.core.is_builtin(pair[1])]
        for name, member in builtins[package]:
            if getattr(package, name) is member:
                interpreter._patch_attr(package, name, member, builder, scope)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_builtin", patch_builtin)
        yield
