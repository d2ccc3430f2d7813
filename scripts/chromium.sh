#!/usr/bin/env bash
# The browser tests need a Chromium: installs Debian's when run as root, otherwise says the command.
set -euo pipefail
for each in chromium chromium-browser google-chrome; do
    if command -v "$each" >/dev/null 2>&1; then exit 0; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Chromium for the browser tests"
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        echo "Chromium could not be installed; the browser tests will fail. Run: apt-get update && apt-get install -y chromium" >&2
    fi
else
    echo "No Chromium found; the browser tests will fail. Run: sudo apt-get update && sudo apt-get install -y chromium" >&2
fi
