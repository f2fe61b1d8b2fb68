# Sourced by the other scripts: creates .venv in the project's root and installs the package with the given extras.
# Usage: source scripts/environment.sh [EXTRA …]. Python is $PYTHON, or the newest of 3.11 to 3.13 on the PATH.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local python
  for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  echo "No Python 3.11, 3.12 or 3.13 was found on the PATH. Install one, or set PYTHON to its path." >&2
  return 1
}

# An interrupted setup leaves an environment without pip: create it again.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  echo "Creating a virtual environment in .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi
extras=$(IFS=,; echo "$*")
echo "Installing keras_alexnet${extras:+[$extras]} and its dependencies"
# Warnings of the build backend concern its maintainers.
PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
  --editable ".${extras:+[$extras]}"
