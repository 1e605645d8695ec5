#!/usr/bin/env bash
# Runs the tests: those in a browser by themselves, since they watch frame rates, the others in JOBS processes.
# Arguments go to pytest. Pytest's exit status 5 (nothing selected) is a failure only if it is so for both runs.
set -uo pipefail
cd "$(dirname "$0")/.."
pytest=("${VENV:-.venv}/bin/python" -m pytest)

"${pytest[@]}" -n "${JOBS:-2}" --dist loadfile -m 'not browser' "$@"
most=$?
"${pytest[@]}" -m browser "$@"
browser=$?

if [ "$most" = 5 ]; then exit "$browser"; fi
if [ "$browser" = 5 ]; then exit "$most"; fi
exit $((most > browser ? most : browser))
