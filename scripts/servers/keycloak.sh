# Keycloak from its Maven artifact, and the JDK that it needs.
# shellcheck shell=bash

keycloak_version=26.5.0
keycloak_java=21

keycloak_server() {
  local home="$cache/keycloak-$keycloak_version" java without="without it the tests of Keycloak are skipped"
  if ! [[ -x $home/bin/kc.sh ]]; then
    if ! command -v mvn >/dev/null; then
      missing "no Keycloak: no Maven found. Install Maven 3.8 or later (Debian: apt-get install maven); $without"
      return
    fi
    say "fetching Keycloak $keycloak_version"
    into_cache "keycloak-$keycloak_version" bin/kc.sh keycloak_fetch || {
      missing "Maven could not fetch Keycloak $keycloak_version (its reason stands above); $without"
      return
    }
  fi
  link "$home" keycloak
  if java=$(find_java); then
    link "$java" java
  else
    rm -f "$linked/java"
    missing "no JDK $keycloak_java or later found for Keycloak in JAVA_HOME, /usr/lib/jvm and PATH. Install one, or set JAVA_HOME; $without"
  fi
}

# The first home of a Java that is new enough. Its file `release` tells the version without starting it.
find_java() {
  local home onpath=""
  onpath=$(readlink -f "$(command -v java)" 2>/dev/null) && onpath=${onpath%/bin/java}
  for home in "${JAVA_HOME:-}" "$linked/java" /usr/lib/jvm/* "$onpath"; do
    [[ -x $home/bin/java && -r $home/release ]] || continue
    if grep -qE '^JAVA_VERSION="?[0-9]+' "$home/release" &&
      (($(sed -nE 's/^JAVA_VERSION="?([0-9]+).*/\1/p' "$home/release") >= keycloak_java)); then
      readlink -f "$home"
      return
    fi
  done
  return 1
}

# keycloak_fetch FOLDER
keycloak_fetch() {
  local folder=$1 artifact=org.keycloak:keycloak-quarkus-dist:$keycloak_version:zip
  three_times mvn -B -q -Dstyle.color=never dependency:copy "-Dartifact=$artifact" "-DoutputDirectory=$folder" >&2 || return
  python3 - "$folder" <<'PYTHON' || return
import os, sys, zipfile
from pathlib import Path

folder = Path(sys.argv[1])
(archive,) = folder.glob("*.zip")
with zipfile.ZipFile(archive) as content:
    for member in content.infolist():
        # The archive has one folder, named after the version.
        member_path = member.filename.partition("/")[2]
        if not member_path:
            continue
        mode = member.external_attr >> 16
        member.filename = member_path
        written = content.extract(member, folder)
        if mode and not member.is_dir():
            os.chmod(written, mode & 0o777)
archive.unlink()
PYTHON
  chmod +x "$folder"/bin/*.sh
}
