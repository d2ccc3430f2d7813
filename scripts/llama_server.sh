#!/usr/bin/env bash
# Compiles llama-server from the source that the pinned llama-cpp-python carries, and prints the binary's path; beside it, that source's
# examples/server with the packages it imports. `scripts/llama_server.sh [FOLDER]` (var/llama-server unless said): 10 to 20 minutes on two
# cores, seconds when it is there already. The app runs the same source in its own process, so a comparison compares programs, not versions.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-var/llama-server}
version=$(sed -n 's/^llama-cpp-python==\([0-9.]*\).*/\1/p' requirements.txt)
source=llama_cpp_python-$version
say() { echo "$*" >&2; }

mkdir -p "$target"
target=$(cd "$target" && pwd)
binary=$target/$version/bin/llama-server
libraries=$target/$version/libraries
if [ -x "$binary" ] && "$binary" --version >/dev/null 2>&1 && [ -f "$libraries/complete" ]; then echo "$binary"; exit 0; fi

compiler=
for each in ${CXX:-} c++ g++ clang++; do
    if echo 'int main() { return 0; }' | "$each" -x c++ - -o /dev/null 2>/dev/null; then compiler=$each; break; fi
done
if [ -z "$compiler" ]; then
    say "llama-server needs a C++ compiler, and there is none here."
    if command -v apt-get >/dev/null 2>&1; then say "Run:  sudo apt-get update && sudo apt-get install -y build-essential"
    elif [ "$(uname)" = Darwin ]; then say "Run:  xcode-select --install"
    else say "Install one with this system's package manager."; fi
    exit 1
fi
if [ ! -x .venv/bin/python ]; then say "Set Footnote up first. Run:  scripts/setup.sh"; exit 1; fi

log=$target/build.log
: >"$log"
failed() { tail -n 25 "$log" >&2; say "Making llama-server failed at: $1. The whole log is $log; running the same command again goes on."; exit 1; }

export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ ! -f "$target/$source.tar.gz" ]; then
    say "Fetching the source of llama-cpp-python $version"
    .venv/bin/python -m pip download -q --no-deps --no-binary llama-cpp-python -d "$target" "llama-cpp-python==$version" >>"$log" 2>&1 ||
        failed "fetching the source"
fi
if [ ! -f "$target/$source/PKG-INFO" ]; then
    rm -rf "$target/unpacking"
    mkdir "$target/unpacking"
    tar -xzf "$target/$source.tar.gz" -C "$target/unpacking" >>"$log" 2>&1 || failed "unpacking"
    rm -rf "${target:?}/$source"
    mv "$target/unpacking/$source" "$target/$source"
    rmdir "$target/unpacking"
fi
cmake=$(command -v cmake || true)
if [ -z "$cmake" ]; then
    say "Installing cmake beside it, for this build only"
    { .venv/bin/python -m venv "$target/tools" && "$target/tools/bin/python" -m pip install -q cmake ninja; } >>"$log" 2>&1 || failed cmake
    cmake=$target/tools/bin/cmake
    PATH=$target/tools/bin:$PATH
fi
generator=()
if [ ! -f "$target/$version/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then generator=(-G Ninja); fi
say "Compiling llama-server for this processor (10 to 20 minutes on two cores); the log is $log"
"$cmake" -S "$target/$source/vendor/llama.cpp" -B "$target/$version" ${generator[@]+"${generator[@]}"} \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$compiler" -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF >>"$log" 2>&1 || failed "preparing the build"
"$cmake" --build "$target/$version" --config Release --target llama-server -j "${JOBS:-2}" >>"$log" 2>&1 || failed "compiling"
"$binary" --version >>"$log" 2>&1 || failed "starting what was compiled"
say "Installing what examples/server imports, beside it"
.venv/bin/python -m pip install -q --no-input --upgrade --target "$libraries" -c constraints.txt openai fastapi websockets >>"$log" 2>&1 ||
    failed "installing what examples/server imports"
cp "$target/$source/examples/server/server.py" "$target/$version/server.py"
touch "$libraries/complete"
echo "$binary"
