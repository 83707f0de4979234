"""Shader modules without the checks that wgpu-native adds to shaders that nobody has proven.

In: a device of wgpu-py, the text of a verified kernel. Out: its module. Invariant: the texts are
those of kernels that `kernel.verify` let through: every access is in bounds and every loop ends.
Errors are raised as wgpu-py raises them, and the text is validated all the same.

By itself wgpu-native gives every loop a counter of its own and clamps every index: through Vulkan
on an NVIDIA H100, a product runs at 36 TFLOP/s without that and at 28 with it.
"""

from __future__ import annotations

from typing import Any

NO_CHECKS = 0


def trusted_module(device: Any, code: str, label: str) -> Any:
    """`device.create_shader_module` by `wgpuDeviceCreateShaderModuleTrusted`, which wgpu-py does
    not offer (wgpu.h of wgpu-native; wgpu's `Device::create_shader_module_trusted`)."""
    from wgpu.backends.wgpu_native import GPUShaderModule, _api

    ffi, lib = _api.ffi, _api.lib
    source = _api.new_struct_p("WGPUShaderSourceWGSL *", code=_api.to_c_string_view(code))
    source[0].chain.next = ffi.NULL
    source[0].chain.sType = lib.WGPUSType_ShaderSourceWGSL
    descriptor = _api.new_struct_p(
        "WGPUShaderModuleDescriptor *",
        nextInChain=ffi.cast("WGPUChainedStruct *", source),
        label=_api.to_c_string_view(label),
    )
    create = _api.libf.wgpuDeviceCreateShaderModuleTrusted
    module = create(device._internal, descriptor, NO_CHECKS)
    if module == ffi.NULL:
        raise RuntimeError("Shader module creation failed")
    return GPUShaderModule(label, module, device)
