"""sdlc: a compiler from a small tensor-expression language to OpenCL C and WGSL kernels.

In: `.sdl` files. Out: programs that run on a device, NumPy arrays in and out, or folders that can
be shipped. The names below are the public interface (docs/api.md); they are loaded when first used.

    import sdlc

    double = sdlc.compile("op double(x: T[n]) -> T[n] { out[i] = 2 * x[i] }")
    double.run(x=np.arange(4.0))["out"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdlc.api import CompiledProgram, compile, devices, targets
    from sdlc.language.diagnostics import SdlError

__version__ = "0.9.0"
__all__ = ["CompiledProgram", "SdlError", "__version__", "compile", "devices", "targets"]


def __getattr__(name: str) -> Any:
    """Loads a public name. Lazy, so that `sdlc --help` and parts of the compiler start quickly."""
    if name == "SdlError":
        from sdlc.language.diagnostics import SdlError

        return SdlError
    if name in __all__:
        from sdlc import api

        return getattr(api, name)
    raise AttributeError(f"module 'sdlc' has no attribute '{name}'")
