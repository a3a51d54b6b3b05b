#!/bin/sh
# Inside of a build, on the base image: the user that services run as, and nothing that installs or has more rights.
set -eu
echo 'slipway:x:10001:10001:Slipway:/nonexistent:/usr/sbin/nologin' >>/etc/passwd
echo 'slipway:x:10001:' >>/etc/group
find / -xdev -type f -perm /6000 -exec chmod ug-s {} +
rm -rf /usr/bin/apt /usr/bin/apt-* /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip /usr/local/bin/pip* /usr/local/bin/wheel
