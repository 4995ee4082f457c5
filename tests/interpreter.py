"""Makes Triton's interpreter bearable."""

import inspect
import os

import pytest


@pytest.fixture(scope="session")
def quick_interpreter():
    """What the interpreter works out again and again, though it never changes, is worked out once, and what
    it works out for nothing is not.

    Before each kernel, and whenever one device function calls another, it searches all of `triton.language`
    for what it must replace; and it makes a table of all dtypes to look one up. At every sum and product of
    integers it also works out whether they overflow, for an assertion that it makes in debug mode alone.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from triton.runtime import interpreter

    builtins = {}

    def patch_builtin(package, builder, scope):
        if package not in builtins:
            members = inspect.getmembers(package)
            builtins[package] = [pair for pair in members if interpreter.tl.core.is_builtin(pair[1])]
        for name, member in builtins[package]:
            if getattr(package, name) is member:
                interpreter._patch_attr(package, name, member, builder, scope)

    np_dtype, np_dtypes = interpreter._get_np_dtype, {}

    def get_np_dtype(dtype):
        name = dtype.scalar.name
        if name not in np_dtypes:
            np_dtypes[name] = np_dtype(dtype)
        return np_dtypes[name]

    call, patch_lang = interpreter.GridExecutor.__call__, interpreter._patch_lang
    patched = set()  # modules of the functions that the running kernel has called

    def run_kernel(executor, *arguments, **options):
        patched.clear()
        return call(executor, *arguments, **options)

    # CPython keeps frames in chunks, and takes a chunk from the system and gives it back at every call that
    # happens to be made at the end of one. A frame that asks for much gets a chunk in which all of the
    # kernel's calls have room.
    run_kernel.__code__ = run_kernel.__code__.replace(co_stacksize=2**15)

    def patch_once(fn):
        """A kernel's own replacements end with it, and serve all functions of a module."""
        if fn.__module__ in patched:
            return interpreter._LangPatchScope()
        patched.add(fn.__module__)
        return patch_lang(fn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_builtin", patch_builtin)
        patch.setattr(interpreter.GridExecutor, "__call__", run_kernel)
        patch.setattr(interpreter, "_patch_lang", patch_once)
        patch.setattr(interpreter, "_get_np_dtype", get_np_dtype)
        if not interpreter.interpreter_builder.options.debug:
            options = interpreter.InterpreterOptions(sanitize_overflow=False)
            patch.setattr(interpreter.interpreter_builder, "options", options)
        yield


@pytest.fixture(scope="session")
def interpreted_bfloat16():
    """The interpreter keeps bfloat16 as the integers that its bits are, multiplies those, and cuts float32
    off where a GPU rounds it. Here products are taken in float32, where they are exact, and added up there as
    tensor cores do; and float32 is rounded to the nearest, ties to even.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    import numpy as np
    import torch
    from triton.runtime import interpreter

    tl, builder = interpreter.tl, interpreter.InterpreterBuilder
    cast, dot = builder.cast_impl, builder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def cast_impl(self, source, kind):
        if kind.scalar != tl.bfloat16 or source.dtype.scalar != tl.float32:
            return cast(self, source, kind)
        rounded = torch.from_numpy(np.array(source.data)).bfloat16().view(torch.int16)
        return interpreter.TensorHandle(rounded.numpy().view(np.uint16), tl.bfloat16)

    def create_dot(self, a, b, *rest):
        return dot(self, widened(a), widened(b), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "cast_impl", cast_impl)
        patch.setattr(builder, "create_dot", create_dot)
        yield
