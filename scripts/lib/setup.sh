# Sourced by the scripts: a Python, what is missing from the distribution, .venv and bucatini in it. Assumes the cwd is the
# top of the repository. Everything it does, it does once: a second run costs a fraction of a second.

VENV=.venv
STAMPS=$VENV/.bucatini
say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 2; }

# An ordinary user's or root's first python3 that is new enough, or $PYTHON. Sets PYTHON.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            PYTHON=$(command -v "$candidate")
            return
        fi
    done
    return 1
}

# present WHAT: is this command, file or @check there?
present() {
    case $1 in
        @venv) "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ;;
        @headers) "$PYTHON" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null ;;
        /*) [ -e "$1" ] ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

# missing_for SCRIPT: Debian packages of scripts/lib/packages that this machine lacks, one a line.
missing_for() {
    local script what package
    while read -r script what package; do
        if [ "$script" = "$1" ] && ! present "$what"; then
            printf '%s\n' "$package"
        fi
    done <scripts/lib/packages | sort -u
}

apt_install() {
    say "Installing with apt-get: $*"
    local log
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
        >"$log" 2>&1 </dev/null; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# need_packages SCRIPT: install what is missing when root on a machine with apt; else say in one line what to install.
# Only Python itself and @venv cannot be done without: the rest is reported and the script goes on.
need_packages() {
    local missing can_install=false
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then can_install=true; fi
    if ! find_python && $can_install; then apt_install python3 || true; fi
    find_python || die "needs Python 3.11 or newer; install it, or name it: PYTHON=/path/to/python3"
    missing=$(missing_for "$1" | tr '\n' ' ')
    if [ -n "$missing" ] && $can_install; then
        # shellcheck disable=SC2086 # one word per package
        apt_install $missing || say "apt-get failed; going on without"
        missing=$(missing_for "$1" | tr '\n' ' ')
    fi
    present @venv || [ -x "$VENV/bin/pip" ] || die "needs the venv module: apt-get install python3-venv"
    if [ -n "$missing" ]; then say "Missing here, install for full use: apt-get install $missing"; fi
}

# requirements EXTRA...: what pyproject.toml asks for to build and run bucatini, and for these extras; one a line.
requirements() {
    "$PYTHON" - "$@" <<'END'
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    told = tomllib.load(file)
wanted = told["build-system"]["requires"] + told["project"]["dependencies"]
for extra in sys.argv[1:]:
    wanted += told["project"]["optional-dependencies"][extra]
print("\n".join(wanted))
END
}

pip_install() {
    "$VENV/bin/pip" install --quiet --disable-pip-version-check "$@" >"$STAMPS/log" 2>&1 ||
        { grep -v '^WARNING' "$STAMPS/log" | tail -n 30 >&2; die "pip install failed (all of it: $STAMPS/log)"; }
}

# install_requirements EXTRA...: into .venv, made when it is missing.
install_requirements() {
    local wanted
    if ! "$VENV/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        say "Making $VENV with $("$PYTHON" --version)"
        "$PYTHON" -m venv --clear "$VENV"
    fi
    mkdir -p "$STAMPS"
    wanted=$(requirements "$@")
    if [ "$(cat "$STAMPS/requirements${*:+-$*}" 2>/dev/null)" = "$wanted" ]; then return; fi
    say "Installing into $VENV: requirements${*:+ and those of $*}"
    # shellcheck disable=SC2046 # one requirement a line, none holds a space
    pip_install $(printf '%s' "$wanted")
    printf '%s' "$wanted" >"$STAMPS/requirements${*:+-$*}"
}

sources_digest() {
    { find src pyproject.toml setup.py -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*' -print0 |
        sort -z | xargs -0 sha256sum; } | sha256sum
}

# install_bucatini MODE: into .venv, a copy and not a link to src/, so that the compiled modules are used. MODE is a value of
# BUCATINI_BUILD. Does nothing when what is there was built from these very sources.
install_bucatini() {
    local mode=$1 digest
    digest=$(sources_digest)
    if [ "$(cat "$STAMPS/$mode" 2>/dev/null)" = "$digest" ]; then return; fi
    say "Installing bucatini into $VENV (a minute or two when it compiles)"
    rm -f "$STAMPS/auto" "$STAMPS/require"
    rm -rf build/bdist.*   # what an interrupted build leaves there stops the next one
    BUCATINI_BUILD=$mode pip_install --no-deps --no-build-isolation --force-reinstall .
    printf '%s' "$digest" >"$STAMPS/$mode"
    if [ "$mode" = require ]; then printf '%s' "$digest" >"$STAMPS/auto"; fi
}
