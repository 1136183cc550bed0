"""Names that the plugin and its protocols share: configuration variables, the engine's environment, file names."""

COCOFOLD = "cocofold"
DISTRIBUTION = "scipion-em-cocofold"

# Variables of scipion.conf
COCOFOLD_HOME = "COCOFOLD_HOME"
COCOFOLD_ENV_ACTIVATION = "COCOFOLD_ENV_ACTIVATION"
COCOFOLD_COLABFOLD = "COCOFOLD_COLABFOLD"
COCOFOLD_WEIGHTS = "COCOFOLD_WEIGHTS"

# Python of the engine's conda environment
ENV_PYTHON = "3.11"

# ColabFold, which makes predictions, in an environment of its own: the version that predictions were compared with
COLABFOLD, COLABFOLD_VERSION = "colabfold", "1.6.3"

# AlphaFold's weights of December 2022: 15 models of 373 MB each, of which the five of AlphaFold-Multimer v3 are kept
WEIGHTS, WEIGHTS_VERSION = "alphafold-multimer-weights", "2022-12-06"
WEIGHTS_URL = "https://storage.googleapis.com/alphafold/alphafold_params_2022-12-06.tar"
WEIGHTS_PATTERN, WEIGHTS_LAST = "*multimer_v3.npz", "params_model_5_multimer_v3.npz"

# Files in COCOFOLD_HOME that say how far the installation came
ENV_CREATED = "env-created.txt"
ENGINE_INSTALLED = "engine-installed.txt"

# Importable where the engine can run: cocofold always comes with the plugin, torch only with the extra "engine"
ENGINE_MODULES = ("cocofold", "torch")

# Point group of a model that is the whole molecule
NO_SYMMETRY = "C1"

# Files that the engine writes: a model that is its answer; of a placement; of a run, of which the start is cycle 0
ANSWER_CIF = "model.cif"
PLACED_CIF, PLACEMENT_JSON, PLACEMENT_PNG, MIRRORED_MRC = (
    "placed.cif",
    "placement.json",
    "placement.png",
    "mirrored.mrc",
)
START_CIF, DENSITY_MRC, METRICS_JSON, METRICS_CSV = "models/cycle_00.cif", "density.mrc", "metrics.json", "metrics.csv"
PARTICLES_STAR = "particles.star"
CONFIG_YAML, CYCLES_FOLDER, REPORT_HTML = "config.yaml", "models", "report.html"
ISOLDE_SCRIPT = "isolde/open_in_isolde.cxc"

# Files of a reconstruction
RECONSTRUCTION_MRC, UNEXPLAINED_MRC, RECONSTRUCTION_JSON = (
    "reconstruction.mrc",
    "unexplained.mrc",
    "reconstruction.json",
)
HALF_MAPS = ("half1.mrc", "half2.mrc")

# Files and folders in the extra folder of a protocol, which summaries, viewers and pipelines read
RUN_FOLDER, PLACED_FOLDER, RECONSTRUCTED_FOLDER = "run", "placed", "reconstructed"
CHECK_JSON, SELECTED_JSON, RELAXED_JSON = "check.json", "selected.json", "relaxed.json"
# Assessments against a reference, of the start and of the result, and against images
BEFORE_JSON, AFTER_JSON, IMAGES_JSON = "before.json", "after.json", "images.json"
# Whether model and reference are known to lie in one frame
COMPARED_JSON = "compared.json"
CHECK_PNG, ASSESSMENT_PNG, SUPPORT_PNG = "check.png", "assessment.png", "support.png"
VERDICT_JSON = "verdict.json"

# How the engine's messages to the user begin, and the variable that makes it end with the protocol's process
MESSAGE_START = "cocofold: "
STOP_WITH = "COCOFOLD_STOP_WITH"
