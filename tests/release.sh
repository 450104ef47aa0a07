#!/usr/bin/env bash
# What a release has to pass: two builds give the same bytes, and the wheel works in a bare environment.
#   tests/release.sh            # build twice and compare, then install the wheel and run cvxsae doctor
#   tests/release.sh --extra data,report --quickstart    # with extras, and the quickstart as a script
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
extra="" quickstart=""
while [ $# -gt 0 ]; do
  case $1 in
    --extra) extra="[$2]"; shift 2 ;;
    --quickstart) quickstart=yes; shift ;;
    *) echo "usage: tests/release.sh [--extra NAMES] [--quickstart]" >&2; exit 2 ;;
  esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 315532800)}
export SOURCE_DATE_EPOCH

"$PYTHON" -m venv "$work/build"
"$work/build/bin/python" -m pip install --quiet build
for n in 1 2; do
  "$work/build/bin/python" -m build --outdir "$work/dist$n" "$root" >/dev/null
done
for file in "$work"/dist1/*; do
  cmp "$file" "$work/dist2/$(basename "$file")"
  echo "the same bytes twice: $(basename "$file")"
done
wheel=$(ls "$work"/dist1/*.whl)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/cvxsae/_version.py")
case $wheel in *"-$version-"*) ;; *) echo "the wheel is not of version $version: $wheel" >&2; exit 1 ;; esac
contents=$(tar -tzf "$work"/dist1/*.tar.gz)
for part in tests/conftest.py docs/theory.md examples/verify_certificate.py CONTRIBUTING.md mkdocs.yml .importlinter; do
  grep -q "/$part$" <<<"$contents" || { echo "the sdist lacks $part" >&2; exit 1; }
done
grep -q "cvxsae/py.typed" <<<"$("$PYTHON" -m zipfile --list "$wheel")" || { echo "the wheel lacks its types" >&2; exit 1; }

"$PYTHON" -m venv "$work/bare"
"$work/bare/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" "$wheel$extra"
"$work/bare/bin/python" -m pip check
cd "$work"
"$work/bare/bin/cvxsae" --version
"$work/bare/bin/python" -c "from cvxsae import *"
"$work/bare/bin/cvxsae" doctor
if [ -n "$quickstart" ]; then
  cp "$root/docs/notebooks/quickstart.py" .
  MPLBACKEND=Agg "$work/bare/bin/python" quickstart.py
fi
