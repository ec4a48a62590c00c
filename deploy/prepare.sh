#!/bin/sh
# Makes what compose.yaml needs and no registry gives:  deploy/prepare.sh  (then: docker-compose up, in deploy/)
#
#   turnwise-base         the image of packages of this machine's distribution, by mmdebstrap, where it is missing
#   made/wheels           this checkout as a wheel, and what it needs, of the versions of constraints.txt
#   made/secrets          a token for the trainer and one for operators; kept where they are there
#   .env                  the group of the Engine's socket, which the servers must be in
#
#   PYTHON        an interpreter with pip (default: python3)
#   DOCKER_HOST   the Engine, a Unix socket (default: unix:///var/run/docker.sock)
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
engine=${DOCKER_HOST:-unix:///var/run/docker.sock}
base=localhost/turnwise-base

fail() {
    echo "prepare: $*" >&2
    exit 1
}

case $engine in
    unix://*) socket=${engine#unix://} ;;
    *) fail "DOCKER_HOST=$engine: the servers are given the Engine's Unix socket; name one" ;;
esac
[ -S "$socket" ] || fail "no Docker Engine's socket at $socket; start one, or name it in DOCKER_HOST"

if ! docker image inspect "$base" >/dev/null 2>&1; then
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is not installed; as root: apt-get install mmdebstrap"
    . /etc/os-release
    for sources in "/etc/apt/sources.list.d/$ID.sources" /etc/apt/sources.list; do
        [ ! -f "$sources" ] || break
    done
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mmdebstrap --quiet --aptopt='Acquire::Retries "5"' --variant=minbase \
        --include=git,haproxy,prometheus,python3,python3-venv \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$VERSION_CODENAME" "$scratch/base.tar" "$sources"
    docker import "$scratch/base.tar" "$base" >/dev/null
fi

# For the base's Python and this processor, whatever Python this machine has.
version=$(docker run --rm --network none "$base" python3 -c 'import platform; print(platform.python_version())')
rm -rf made/wheels
"$python" -m pip wheel --quiet --no-deps --wheel-dir made/wheels ..
"$python" -m pip download --quiet --dest made/wheels --constraint ../constraints.txt --only-binary=:all: \
    --python-version "$version" --platform "manylinux_2_28_$(uname -m)" --platform "manylinux2014_$(uname -m)" \
    "$(echo made/wheels/turnwise-*.whl)[server,docker]"

# Containers read them as other users than their owner, whom this folder keeps from others' eyes.
mkdir -p made/secrets
chmod 700 made/secrets
if [ ! -e made/secrets/tokens ]; then
    for role in trainer admin; do
        "$python" -c 'import secrets; print(secrets.token_urlsafe(32), end="")' >made/secrets/$role
    done
    printf '%s %s\n' trainer "$(cat made/secrets/trainer)" admin "$(cat made/secrets/admin)" >made/secrets/tokens
fi
chmod 444 made/secrets/*

printf '%s=%s\n' ENGINE_SOCKET "$socket" ENGINE_GROUP "$(stat -c %g "$socket")" >.env
