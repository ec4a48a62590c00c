#!/bin/sh
# Makes .venv and installs Turnwise into it, editable, with one extra:  scripts/setup.sh quickstart|dev
#
# Does nothing when that is already so. Where Python or its venv module is missing, installs them with apt
# if it may, and otherwise says in one line what is missing and how to get it.
#
#   PYTHON        the interpreter to make .venv with (default: the first of the usual names that is good enough)
#   CONSTRAINTS   the file of tested versions (default: constraints.txt; empty: whatever pip chooses)
set -eu
cd "$(dirname "$0")/.."
cd "$(pwd -P)"

extra=${1:?usage: scripts/setup.sh quickstart|dev}
constraints=${CONSTRAINTS-constraints.txt}

say() { printf 'turnwise: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Is this Python 3.11 or newer, complete enough to make a virtual environment and to install from a registry?
suits() {
    "$1" -c 'import sys, ctypes, ensurepip, ssl, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.13 python3.12 python3.11 /usr/bin/python3
    fi
    for candidate; do
        if suits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Runs a command as root: directly, with sudo that asks nothing, or with sudo that can ask at a terminal.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; then
        sudo "$@"
    else
        return 1
    fi
}

# The distribution's own Python first; older releases carry newer ones beside it.
install_python() {
    command -v apt-get >/dev/null && as_root apt-get -qq update || return 1
    for package in python3-venv python3.13-venv python3.12-venv python3.11-venv; do
        say "Python 3.11 or newer with venv is missing: installing $package with apt"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$package" >&2 || continue
        if find_python; then
            return
        fi
    done
    return 1
}

remedy() {
    if command -v apt-get >/dev/null; then
        echo "as root: apt-get install python3 python3-venv"
    elif command -v brew >/dev/null; then
        echo "brew install python"
    else
        echo "install it with the system's package manager"
    fi
}

choose_python() {
    if find_python; then
        return
    fi
    if [ -n "${PYTHON:-}" ]; then
        fail "PYTHON=$PYTHON is not Python 3.11 or newer with venv, ssl and ctypes; name another or none"
    fi
    install_python || fail "Python 3.11 or newer with venv, ssl and ctypes is missing; $(remedy)"
}

# A virtual environment that was moved or copied here runs the commands of its old place.
venv_is_ours() {
    case "$(.venv/bin/pip --version 2>/dev/null)" in
        *" from $PWD/.venv/"*) suits .venv/bin/python ;;
        *) return 1 ;;
    esac
}

if [ -n "$constraints" ] && [ ! -f "$constraints" ]; then
    fail "CONSTRAINTS=$constraints is no file; name one, or leave it empty for versions of pip's choice"
fi
wanted="$PWD $(cat pyproject.toml ${constraints:+"$constraints"} | cksum)"
if [ "$(cat ".venv/installed-$extra" 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

if ! venv_is_ours; then
    python=$(choose_python)
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || fail "$python could not make .venv (see above)"
fi
say "installing turnwise[$extra] into .venv; the first time this takes minutes"
.venv/bin/python -m pip install --disable-pip-version-check ${constraints:+-c "$constraints"} -e ".[$extra]" ||
    fail "pip failed (see above): is there a network and disk space? Other versions than the tested: make quickstart CONSTRAINTS="

echo "$wanted" >".venv/installed-$extra"
if [ "$extra" = dev ]; then # contains quickstart
    echo "$wanted" >.venv/installed-quickstart
fi
