#!/usr/bin/env bash
# Indexes the sample company if there is no index yet, then starts the web app and says where it is.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -e indexes/default/CURRENT ]; then
    echo "Reading the sample company in examples/alderwick-cycles"
    code=0
    .venv/bin/python -m ingest examples/alderwick-cycles || code=$?
    if [ "$code" != 0 ] && [ "$code" != 3 ]; then exit "$code"; fi # 3: published, some files failed and were named
fi
port=$(.venv/bin/python -c 'import config; print(config.load().port)')
cat <<TEXT

  Footnote is at  http://127.0.0.1:$port   (stop with Ctrl+C)

  Ask, for example:  How much is a hotel in London allowed to cost?
  Your own folder:   .venv/bin/python -m ingest FOLDER     or upload it on the Library page
  Without a browser: .venv/bin/python -m rag ask "How many days of annual leave do I have?"

TEXT
exec .venv/bin/python -m streamlit run app.py --server.port "$port" --server.address 127.0.0.1 --server.headless true
