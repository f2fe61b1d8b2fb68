# Sourced by the other scripts: makes .venv in the project's root, with the package and the given extras in it.
# Usage: source scripts/environment.sh [EXTRA …]. Python is $PYTHON, or else the newest of 3.11 to 3.13 on the PATH.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local python
  for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  echo "Python 3.11, 3.12 or 3.13 is needed, and none is on the PATH. Install one, or set PYTHON to it." >&2
  return 1
}

# An interrupted set-up leaves an environment without pip: make it again.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  echo "Making a virtual environment in .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi
extras=$(IFS=,; echo "$*")
echo "Installing keras_alexnet${extras:+[$extras]} and what it needs"
# Warnings of the build backend are for those who maintain it.
PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
  --editable ".${extras:+[$extras]}"
