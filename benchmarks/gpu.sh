#!/bin/sh
# What a GPU gives, in at most 8 minutes, with the Python (3.10 to 3.12) and torch (2.4 or newer) that are there:
#   sh benchmarks/gpu.sh OUT                  results.jsonl in OUT as parts end, a table at the end
#   sh benchmarks/gpu.sh OUT --device cpu     tries the script itself on a processor
#   sh benchmarks/gpu.sh wheels 3.11 FOLDER   beforehand, with a network: what a machine without one may lack (44 MB)
# COCOFOLD_WHEELS names that folder (else wheels/ beside OUT); PYTHON the interpreter (else python3).
set -eu

root=$(cd "$(dirname "$0")/.." && pwd -P)
python=${PYTHON:-python3}
# Imported name and package; the parts need no others beside torch and numpy.
needed="scipy:scipy gemmi:gemmi yaml:PyYAML roma:roma"

if [ "${1:-}" = wheels ]; then
    [ $# -eq 3 ] || { echo "usage: sh benchmarks/gpu.sh wheels 3.11 FOLDER" >&2; exit 2; }
    for pair in $needed; do
        name=${pair#*:}
        [ "$name" = roma ] && name="roma<1.6"
        [ "$name" = gemmi ] && name="gemmi<0.8"
        "$python" -m pip download --quiet --only-binary :all: --no-deps --python-version "$2" --dest "$3" \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "$name"
    done
    exit 0
fi

[ $# -ge 1 ] || { echo "usage: sh benchmarks/gpu.sh OUT [--device cpu] [--minutes 8]" >&2; exit 2; }
out=$1
shift
mkdir -p "$out" && out=$(cd "$out" && pwd -P)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || { echo "$python is older than 3.9" >&2; exit 2; }
if ! why=$("$python" -c 'import numpy, torch
version = torch.__version__.split(".")
assert [int(version[0]), int(version[1])] >= [2, 4], "torch is older than 2.4: " + torch.__version__' 2>&1); then
    echo "$python cannot run this; it needs numpy and torch 2.4: $(printf '%s\n' "$why" | tail -n 1)" >&2
    exit 2
fi
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
for pair in $needed; do
    module=${pair%%:*}
    if ! "$python" -c "import $module" 2>/dev/null; then
        wheels=${COCOFOLD_WHEELS:-$(dirname "$out")/wheels}
        "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$place" \
            --find-links "$wheels" "${pair#*:}" >"$place/said" 2>&1 && continue
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        echo "$python has no $module, and pip finds none in $wheels ($(tail -n 1 "$place/said")); where there is a" \
            "network, run: sh benchmarks/gpu.sh wheels $version FOLDER, and name it here: COCOFOLD_WHEELS=FOLDER" >&2
        exit 2
    fi
done
cd "$root" && PYTHONPATH="$root:$place${PYTHONPATH:+:$PYTHONPATH}" "$python" -m benchmarks.gpu "$out" "$@"
