#!/bin/bash
# Builds the offline compilers that `sdlc compile --statistics` asks (docs/targets.md), from Debian packages only:
# Mesa's back-ends for phones' GPUs, above a library that answers the kernel driver's calls.
#   offline_setup.sh [PREFIX]      default ~/.cache/mesa-mobile; JOBS=2; OPENCL=0 leaves out OpenCL and LLVM
# Debian 12 on x86-64, as root, about five minutes on two cores. The system's own package sources stay as they are.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
PREFIX=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/mesa-mobile}; SRC=${SRC:-$PREFIX-src} JOBS=${JOBS:-2} OPENCL=${OPENCL:-1}
export DEBIAN_FRONTEND=noninteractive
mkdir -p "$SRC" "$PREFIX"/{bin,lib,layer,OpenCL/vendors,share/vulkan/icd.d}

# 1. Tools.  LLVM 15 is the only LLVM in bookworm with both libclc and the SPIR-V translator, and Mesa 25.0 accepts it.
apt-get update -q
apt-get install -qy --no-install-recommends build-essential python3-venv bison flex glslang-tools pkg-config \
  libdrm-dev libexpat1-dev libelf-dev zlib1g-dev libvulkan1
((OPENCL)) && apt-get install -qy --no-install-recommends clang-15 llvm-15-dev libclang-15-dev libclang-cpp15-dev \
  libclc-15 libclc-15-dev libllvmspirvlib-15-dev spirv-tools libzstd-dev libxml2-dev rustc-web rustfmt-web \
  libstd-rust-web-dev
python3 -m venv "$SRC/venv"
"$SRC/venv/bin/pip" -q install meson ninja mako pyyaml packaging
export PATH=$SRC/venv/bin:/usr/bin:/bin LIBCLANG_PATH=/usr/lib/llvm-15/lib

# 2. Mesa 25.0's source, and bindgen >= 0.65 with the libc it wants, out of Debian 13, through a private apt set-up.
APT=$SRC/apt; mkdir -p "$APT/lists/partial" "$APT/archives/partial"
KEY="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
MIRROR=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -n 1)   # the mirror that this system uses already
printf '%s\n' "deb $KEY $MIRROR trixie main" \
              "deb-src $KEY $MIRROR trixie main" > "$APT/sources.list"
trixie() {
  apt-get -o Dir::Etc::sourcelist="$APT/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$APT/lists" -o Dir::Cache::archives="$APT/archives" -o Dir::Cache::pkgcache= \
    -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -q "$@"
}
cd "$SRC"
trixie update
trixie source --download-only mesa
rm -rf mesa; mkdir mesa; tar xf mesa_*.orig.tar.xz -C mesa --strip-components=1
if ((OPENCL)); then
  rm -rf bindgen *.deb; mkdir bindgen
  trixie download bindgen libc6
  for deb in bindgen_*.deb libc6_*.deb; do dpkg -x "$deb" bindgen; done
  LIBS=$SRC/bindgen/usr/lib/x86_64-linux-gnu
  cat > venv/bin/bindgen <<END
#!/bin/sh
exec $LIBS/ld-linux-x86-64.so.2 --library-path $LIBS:/usr/lib/llvm-15/lib:/usr/lib/x86_64-linux-gnu $SRC/bindgen/usr/bin/bindgen "\$@"
END
  chmod +x venv/bin/bindgen
fi

# 3. Two capability bits that 25.0 withholds although the back-ends compile 16-bit floats; without them wgpu has no f16.
sed -i 's/uniformAndStorageBuffer16BitAccess  = false;/uniformAndStorageBuffer16BitAccess  = true;/' \
  mesa/src/freedreno/vulkan/tu_device.cc
sed -i 's/\.shaderFloat16 = false,/.shaderFloat16 = true,/' mesa/src/panfrost/vulkan/panvk_physical_device.c

# 4. Configure and build.
printf "[binaries]\nllvm-config = '/usr/bin/llvm-config-15'\n" > native.ini
options=(--prefix="$PREFIX" --libdir=lib --buildtype=release -Db_ndebug=true --native-file native.ini
  -Dplatforms= -Dfreedreno-kmds=msm -Dvulkan-layers= -Dvideo-codecs= -Dopengl=false -Dbuild-tests=false)
for feature in glx egl gbm gles1 gles2 shader-cache xmlconfig libunwind lmsensors valgrind zstd android-libbacktrace
do options+=("-D$feature=disabled"); done
targets=()
for driver in freedreno panfrost; do
  targets+=(src/$driver/vulkan/libvulkan_$driver.so src/$driver/drm-shim/lib${driver}_noop_drm_shim.so
            src/$driver/vulkan/${driver}_icd.x86_64.json)
done
if ((OPENCL)); then
  options+=(-Dvulkan-drivers=freedreno,panfrost,asahi -Dgallium-drivers=freedreno,panfrost -Dtools=drm-shim,asahi
    -Dgallium-rusticl=true -Dgallium-rusticl-enable-drivers=freedreno,panfrost -Drust_std=2021
    -Dllvm=enabled -Dshared-llvm=enabled -Dmesa-clc=enabled -Dprecomp-compiler=enabled)
  targets+=(src/gallium/targets/rusticl/libRusticlOpenCL.so.1.0.0 src/compiler/clc/mesa_clc src/asahi/clc/asahi_clc)
else
  options+=(-Dvulkan-drivers=freedreno,panfrost -Dgallium-drivers= -Dtools=drm-shim -Dllvm=disabled)
fi
rm -rf build
meson setup build mesa "${options[@]}" > meson.log
nice -n 19 ninja -C build -j"$JOBS" "${targets[@]}" > ninja.log

# 5. Install what is used, and the statistics layer.
for target in "${targets[@]}"; do
  case $target in
    *.json) cp "build/$target" "$PREFIX/share/vulkan/icd.d/" ;;
    *_clc)  cp "build/$target" "$PREFIX/bin/" ;;
    *)      cp "build/$target" "$PREFIX/lib/" ;;
  esac
done
strip --strip-unneeded "$PREFIX"/lib/*.so* "$PREFIX"/bin/* || true
((OPENCL)) && echo "$PREFIX/lib/libRusticlOpenCL.so.1.0.0" > "$PREFIX/OpenCL/vendors/rusticl.icd"
gcc -O1 -Wall -shared -fPIC -fvisibility=hidden -Imesa/include "$HERE/offline_layer.c" -o "$PREFIX/layer/libvkstats.so"
cat > "$PREFIX/layer/VkLayer_vkstats.json" <<'END'
{"file_format_version": "1.2.0",
 "layer": {"name": "VK_LAYER_SDL_vkstats", "type": "GLOBAL", "library_path": "./libvkstats.so", "api_version": "1.3.0",
           "implementation_version": "1", "description": "records compute pipeline statistics"}}
END
du -sh "$PREFIX"
