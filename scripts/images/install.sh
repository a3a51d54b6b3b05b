#!/bin/sh
# Inside of a build: makes the virtual environment FOLDER from WHEELS (a folder, with the lock requirements.txt beside it)
# without any index, and takes out of it what no service uses. `install.sh FOLDER WHEELS`
set -eu
folder=$1 wheels=$2
uv=/tmp/uv
[ -d $uv ] || python3.11 -m zipfile -e "$wheels"/../uv/uv-*.whl $uv
bin=$(echo $uv/uv-*.data/scripts/uv)
chmod +x "$bin"
# Checked by its hash, compiled code needs no time stamps: the same wheels make the same layer.
export SOURCE_DATE_EPOCH=0 PYC_INVALIDATION_MODE=unchecked-hash UV_NO_CACHE=1 UV_LINK_MODE=copy
python=$(command -v python3.11)
[ -d "$folder" ] || "$bin" venv --quiet --no-config --python "$python" "$folder"
export VIRTUAL_ENV="$folder"
# The lock is complete, which scripts/service_locks.py checks: nothing is left to resolve.
for lock in "$wheels"/../requirements.txt "$wheels"/../files.txt; do
  [ ! -s "$lock" ] ||
    "$bin" pip install --quiet --no-config --no-index --find-links "$wheels" --require-hashes --no-deps -r "$lock"
done
[ ! -d "$wheels/../own" ] || "$bin" pip install --quiet --no-config --no-index --no-deps "$wheels"/../own/*.whl
site=$folder/lib/python3.11/site-packages
rm -rf "$site"/_virtualenv.* "$folder"/bin/activate* "$folder"/.lock "$folder"/.gitignore
find "$site" -depth -type d \( -name tests -o -name test -o -name testing \) -path '*/site-packages/*' ! -path '*/slipway*' \
  ! -path '*/numpy/testing' ! -path '*/numpy/_core/tests' -exec rm -rf {} +
find "$site" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.cpp' -o -name '*.h' \
  -o -name '*.hpp' -o -name '*.a' -o -name '*.proto' \) -delete
"$python" -m compileall -q --invalidation-mode unchecked-hash "$site" >/dev/null
