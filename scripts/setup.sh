# shellcheck shell=bash
# What both commands need on a fresh Debian or Ubuntu machine; sourced by scripts/quickstart and scripts/test.
# Every step looks first and does nothing when there is nothing to do, so that a second run takes seconds.

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf 'hint: %s\n' "$2" >&2; fi
    exit 1
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
STARTED_IN=$PWD
PACKAGES=(
    lxc python3-lxc uidmap                        # containers
    mmdebstrap debian-archive-keyring gpgv zstd tar # base images
    gpg gpg-agent                                 # signed repositories
    python3 python3-venv ca-certificates git      # lxcbuild itself
)
OPTIONAL_PACKAGES=(ubuntu-keyring) # for ubuntu/* targets; not in every archive

need_root() {
    [ "$(id -u)" -eq 0 ] || fail "this needs root" "run: sudo $0"
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

can_be_had() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }

# Containers of ours have no network of their own: no bridge, no DHCP server and no DNS server is wanted. Recommended packages
# would bring them, and policy-rc.d keeps what comes all the same from being started.
setup_packages() {
    command -v apt-get >/dev/null || fail "there is no apt-get here" "lxcbuild needs Debian or Ubuntu"
    local missing=() name
    for name in "${PACKAGES[@]}" "$@"; do installed "$name" || missing+=("$name"); done
    for name in "${OPTIONAL_PACKAGES[@]}"; do
        if ! installed "$name" && can_be_had "$name"; then missing+=("$name"); fi
    done
    if [ ${#missing[@]} -eq 0 ]; then
        say "packages: all installed"
        return
    fi
    say "packages: installing ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d made_policy=no
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        made_policy=yes
    fi
    local status=0 had_lxc=no
    if installed lxc; then had_lxc=yes; fi
    apt_install "${missing[@]}" || status=$?
    if [ $made_policy = yes ]; then rm -f $policy; fi
    # Nor at the next boot, when it was we who brought them.
    if [ $had_lxc = no ] && [ -d /run/systemd/system ]; then
        systemctl --quiet disable lxc-net.service lxc.service </dev/null >&2 2>/dev/null || true
    fi
    [ $status -eq 0 ] || fail "apt-get could not install ${missing[*]}" "see its message above; is the mirror reachable?"
}

# The lists may be missing (a fresh container) or old: refreshed only when the first try fails.
apt_install() {
    local quiet=(-o Dpkg::Use-Pty=0 -o APT::Color=0 -q -y --no-install-recommends)
    export DEBIAN_FRONTEND=noninteractive
    if ! apt-get "${quiet[@]}" install "$@" </dev/null >&2; then
        say "packages: refreshing apt's lists and trying again"
        apt-get -q update </dev/null >&2 || return
        apt-get "${quiet[@]}" install "$@" </dev/null >&2
    fi
}

# The distribution's own Python, because python3-lxc is built for it. Libraries are those of requirements*.lock, by their hashes; the
# newest of everything where LATEST is "yes".
setup_venv() { # [extra]
    local extra=${1:-} python=/usr/bin/python3 stamp="$VENV/.lxcbuild-installed" wanted
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old: lxcbuild needs Python 3.11" "use Debian 12, Ubuntu 24.04 or newer"
    if [ ! -x "$VENV/bin/python" ] || [ "$(venv_home)" != "$(venv_wanted "$python")" ]; then
        say "venv: making $VENV"
        rm -rf "$VENV"
        "$python" -m venv --system-site-packages "$VENV"
    fi
    # Installed is what pyproject.toml and the locks ask for, for this place and this Python, with these extras: otherwise pip runs.
    wanted=$({ cat "$ROOT/pyproject.toml" "$ROOT"/scripts/requirements*.lock; echo "$ROOT"; "$python" --version; } | sha256sum)
    wanted=${wanted%% *}
    if [ "${LATEST:-no}" = no ] && grep -qsxE "$wanted (${extra:-base}|dev)" "$stamp"; then
        say "venv: up to date"
    else
        rm -f "$stamp"
        say "venv: installing lxcbuild and its libraries${extra:+ (with $extra)}"
        install_libraries "$extra" ||
            fail "pip could not install the libraries" "see its message above; pip uses the index that it is configured with"
        [ "${LATEST:-no}" = yes ] || printf '%s %s\n' "$wanted" "${extra:-base}" >"$stamp"
    fi
    give_back "$VENV"
}

install_libraries() { # extra
    if [ "${LATEST:-no}" = yes ]; then
        run_pip --upgrade --upgrade-strategy eager --editable "$ROOT${1:+[$1]}"
    else
        run_pip --require-hashes --requirement "$ROOT/scripts/requirements${1:+-$1}.lock" &&
            run_pip --no-deps --no-build-isolation --editable "$ROOT" # hatchling is in the lock
    fi
}

run_pip() { "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet "$@" </dev/null >&2; }

venv_home() { sed -n 's/^executable *= *//p' "$VENV/pyvenv.cfg" 2>/dev/null; }
venv_wanted() { "$1" -c 'import os, sys; print(os.path.realpath(sys.executable))'; }

# Made with sudo, but the developer's to use and to remove.
give_back() {
    if [ -n "${SUDO_UID:-}" ] && [ "$(stat -c %u "$ROOT")" = "$SUDO_UID" ]; then
        chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$1"
    fi
}

# Root's ranges of subordinate ids: room for 1,000 sandboxes of 65,536 ids each, above everything that is given away already.
# What counts as a range is decided by the code that will use it. Lines that are there stay as they are.
setup_ids() {
    local found start file
    found=$("$VENV/bin/python" -c 'from lxcbuild.linux.ids import IdAllocator; print(len(IdAllocator().starts()))')
    if [ "$found" -ge 16 ]; then
        say "ids: root has $found ranges"
        return
    fi
    start=$(cat /etc/subuid /etc/subgid 2>/dev/null | awk -F: '
        NF >= 3 && $2 + $3 > end { end = $2 + $3 }
        END { print end <= 100000 ? 100000 : int((end + 65535) / 65536) * 65536 }')
    say "ids: giving root the subordinate ids from $start on (/etc/subuid, /etc/subgid)"
    for file in /etc/subuid /etc/subgid; do
        printf 'root:%s:65536000\n' "$start" >>$file
        chmod 644 $file
    done
}

setup() { # [extra]
    need_root
    cd /
    setup_packages
    setup_venv "${1:-}"
    setup_ids
    cd "$STARTED_IN"
}
