# Four commands for people; .ci/run calls the second. Each sets itself up first, in seconds when that is done already.

.PHONY: run test check bench examples clean

run:  ## set up, index the sample company, start the web app on http://127.0.0.1:8501
	@scripts/setup.sh
	@scripts/run.sh

test:  ## set up with what the tests need, then run them all
	@scripts/setup.sh dev
	@scripts/chromium.sh
	.venv/bin/python -m pytest -q --durations=5

check:  ## lint and types
	@scripts/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/mypy .

bench:  ## measurements over DATA=folder; llama-server is compiled first, as a peer, and left out where that fails
	@test -n "$(DATA)" || { echo "Which data? make bench DATA=FOLDER"; exit 2; }
	@scripts/setup.sh dev
	-@scripts/llama_server.sh >/dev/null
	.venv/bin/python -m bench $(DATA)

examples:  ## rebuild the sample company from examples/sources
	@scripts/setup.sh dev
	.venv/bin/python examples/build.py

clean:  ## forget the environment and caches; indexes and var/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
