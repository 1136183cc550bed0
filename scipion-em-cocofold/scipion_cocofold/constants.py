"""Names that the plugin and its protocols share: configuration variables, the engine's environment, file names."""

COCOFOLD = "cocofold"
DISTRIBUTION = "scipion-em-cocofold"

# Variables of scipion.conf
COCOFOLD_HOME = "COCOFOLD_HOME"
COCOFOLD_ENV_ACTIVATION = "COCOFOLD_ENV_ACTIVATION"
COCOFOLD_COLABFOLD = "COCOFOLD_COLABFOLD"

# Python of the engine's conda environment
ENV_PYTHON = "3.11"

# Files in COCOFOLD_HOME that say how far the installation came
ENV_CREATED = "env-created.txt"
ENGINE_INSTALLED = "engine-installed.txt"

# Importable where the engine can run: cocofold always comes with the plugin, torch only with the extra "engine"
ENGINE_MODULES = ("cocofold", "torch")

# How the engine's messages to the user begin, and the variable that makes it end with the protocol's process
MESSAGE_START = "cocofold: "
STOP_WITH = "COCOFOLD_STOP_WITH"
