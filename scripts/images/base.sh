#!/bin/sh
# Makes a small base image of Debian 12 with Python 3.11 out of Debian's packages, for machines that reach no registry
# of images: `base.sh NAME`. Needs root, debootstrap and docker. The mirror is APT_MIRROR, or the one that apt is set up for.
set -eu
name=$1
mirror=${APT_MIRROR:-$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\(http[^ ]*\).*/\2/p; s/^URIs: *\([^ ]*\).*/\1/p' \
  /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root

debootstrap --variant=minbase --include=python3.11,ca-certificates,libstdc++6,libgomp1,zlib1g \
  bookworm "$root" ${mirror:+"$mirror"} >"$scratch/log" 2>&1 || { tail -20 "$scratch/log" >&2; exit 1; }
# Nothing is installed into an image later: neither the package manager stays nor what only it needs, nor programs with
# more rights than their user. dpkg's list of packages stays for scanners.
purge() {
  chroot "$root" dpkg --purge --force-remove-essential --force-depends --force-remove-protected "$@" \
    >"$scratch/log" 2>&1 || { tail -20 "$scratch/log" >&2; exit 1; }
}
# In this order: what runs Perl or its neighbours as it goes is first.
purge libpam-runtime libpam-modules libpam-modules-bin util-linux-extra
purge apt libapt-pkg6.0 gpgv adduser debian-archive-keyring e2fsprogs libext2fs2 logsave mount login passwd util-linux \
  bsdutils sysvinit-utils libgnutls30 libdb5.3 libp11-kit0 libhogweed6 libnettle8 usr-is-merged
purge init-system-helpers debconf perl-base
rm -rf "$root"/var/cache/* "$root"/var/lib/apt "$root"/var/log/* "$root"/var/lib/dpkg/*-old "$root"/tmp/* \
  "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/locale "$root"/usr/share/lintian \
  "$root"/usr/share/zoneinfo/right "$root"/usr/share/zoneinfo/posix "$root"/usr/lib/python3.11/lib2to3 \
  "$root"/usr/lib/python3.11/idlelib "$root"/usr/lib/python3.11/ensurepip "$root"/usr/lib/python3.11/pydoc_data
rm -rf "$root"/dev && mkdir "$root"/dev
tar -C "$root" --sort=name --numeric-owner -c . | docker import --change 'CMD ["python3.11"]' - "$name" >/dev/null
