#!/bin/sh
# Runs on the host while a base image is made; $1 is the root of the image. Leaves nothing of the host in it, and
# adds what every sandbox needs: the build user, the directories of the protocol, no network, no services.
set -eu
root="$1"

# The user of the untrusted steps. Written by hand: useradd would add subordinate id ranges and mail spools.
grep -q '^build:' "$root/etc/passwd" || {
    echo 'build:x:1000:1000:package build:/build:/bin/sh' >>"$root/etc/passwd"
    echo 'build:x:1000:' >>"$root/etc/group"
    echo 'build:!:19000:0:99999:7:::' >>"$root/etc/shadow"
    echo 'build:!::' >>"$root/etc/gshadow"
}
rm -f "$root/etc/passwd-" "$root/etc/group-" "$root/etc/shadow-" "$root/etc/gshadow-" "$root/etc/subuid-" "$root/etc/subgid-"
install -d -m 0755 -o 1000 -g 1000 "$root/build" "$root/out"
install -d -m 0755 -o 0 -g 0 "$root/in"
chmod 1777 "$root/tmp" "$root/var/tmp"

# No name service, no host names of the maker.
: >"$root/etc/resolv.conf"
echo build >"$root/etc/hostname"
printf '127.0.0.1 localhost build\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"

# apt inside never has a network: it installs local files only, and must not look for lists or mirrors.
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/apt/sources.list.d/"* "$root/etc/apt/auth.conf" "$root/etc/apt/auth.conf.d/"*
echo '# Sandboxes have no network: packages come as local files.' >"$root/etc/apt/sources.list"
rm -rf "$root/var/lib/apt/lists" "$root/var/cache/apt"
install -d -m 0755 "$root/var/lib/apt/lists" "$root/var/lib/apt/lists/partial" "$root/var/cache/apt" "$root/var/cache/apt/archives" \
    "$root/var/cache/apt/archives/partial"

# The documentation rules under which the image was made hold for layers too, under a name that says whose they are.
if [ -e "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" ]; then
    mv "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/90lxcbuild"
fi

# No package may start a service when it is installed.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"

# Identity, logs and caches.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed" "$root/var/cache/ldconfig/aux-cache"
rm -f "$root/var/cache/debconf/"*-old "$root/var/lib/dpkg/"*-old
find "$root/var/log" -type f -delete
rm -rf "$root/root/.cache" "$root/var/tmp/"* "$root/tmp/"*
