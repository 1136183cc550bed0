#!/bin/sh
# The whole way in a Scipion project of its own, without a screen: particles are simulated, a map is reconstructed from
# them, and the template cocofold-relion runs from import to assessment.
#   demo.sh run FOLDER    makes everything anew in FOLDER
#   demo.sh gui FOLDER    opens the project that was made there
set -eu

what=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
bin=$(cd "$(dirname "$(command -v scipion)")" && pwd)
# Scipion puts the path of its Python into command lines as it is; a link stands for one with blanks
case $bin in
    *[[:space:]]*)
        links=$(mktemp -d)
        trap 'rm -rf "$links"' EXIT
        ln -s "${bin%/bin}" "$links/environment"
        bin=$links/environment/bin
        ;;
esac
PATH=$bin:$PATH
scipion() {
    "$bin/python" -m scipion "$@"
}

export SCIPION_HOME="$folder/scipion" SCIPION_USER_DATA="$folder/scipion"
# The engine is in the same environment; nobody is asked anything, and nothing is sent
export COCOFOLD_ENV_ACTIVATION="" SCIPION_NOTIFY=False PYTHONWARNINGS=ignore

if [ "$what" = gui ]; then
    test -d "$SCIPION_HOME/projects/demo" || { echo "There is no project in $folder yet: run 'make demo' first." >&2; exit 2; }
    scipion project demo
    exit
fi

"$bin/cocofold" demo --data-only --out "$folder/data"
data="$folder/data"

echo
echo "2. Making a Scipion project from the template cocofold-relion"
rm -rf "$SCIPION_HOME"
mkdir -p "$SCIPION_HOME"
scipion config --notify --unattended > "$SCIPION_HOME/config.log" 2>&1
scipion template cocofold-relion project_name=demo --nogui --noschedule \
    particles="$data/particles/particles.star" px=2.5 voltage=300 cs=2.7 q0=0.1 \
    map="$data/particles/map.mrc" mappx=2.5 model="$data/start.cif" symmetry=C1 effort=1.0 \
    > "$SCIPION_HOME/template.log" 2>&1

echo "3. Running it: import, placement, check, fine-tuning, relaxation, assessment; about four minutes on two CPU cores"
status=0
scipion python -m scipion_cocofold.headless demo || status=$?
run=$(ls -d "$SCIPION_HOME"/projects/demo/Runs/*_ProtCocofoldFinetune/extra 2> /dev/null || true)
relaxed=$(ls -d "$SCIPION_HOME"/projects/demo/Runs/*_ProtCocofoldRelax/extra 2> /dev/null || true)
if [ ! -f "$relaxed/model.cif" ]; then
    echo "The demo did not end with a model; logs are in $SCIPION_HOME/projects/demo/Runs" >&2
    # Also where the protocols ended well but left no model
    [ "$status" -ne 0 ] || status=1
    exit "$status"
fi

echo
echo "4. Compared with the structure that was imaged"
"$bin/cocofold" assess --model "$relaxed/relaxed.cif" --reference "$data/particles/truth.cif" \
    --start "$data/start.cif" --json "$folder/assessment.json"
echo
echo "project   $SCIPION_HOME/projects/demo"
echo "model     $relaxed/model.cif (before relaxation: $run/model.cif)"
echo "report    $run/run/report.html"
echo "plots     $run/run/frc.png"
echo "ISOLDE    $run/run/isolde/open_in_isolde.cxc, to be opened in ChimeraX"
exit "$status"
