"""Protocol that imports a prediction of AlphaFold-Multimer, or makes one."""

import glob
import os

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.protocol import params
from pyworkflow.utils import cleanPath

from scipion_cocofold import Plugin

from ..models import chainLengths
from ..objects import CocofoldPrediction
from .base import EngineRange, ProtCocofoldBase, addSeed

FROM_COLABFOLD, FROM_OPENFOLD, FROM_SEQUENCES = range(3)
MSA_SERVER, MSA_NONE, MSA_FILE = range(3)


class ProtCocofoldPredict(ProtCocofoldBase):
    """Imports a prediction of AlphaFold-Multimer with its representations, or makes one with ColabFold or OpenFold.

    Fine-tuning trains the network that made the prediction; the predicted model is an output as well. Predictions of
    AlphaFold 3, Boltz or Chai have no such representations: import their model and fine-tune that.
    """

    _label = "AlphaFold prediction"
    _devStatus = BETA
    _possibleOutputs = {"outputPrediction": CocofoldPrediction, "outputAtomStruct": AtomStruct}

    def _defineParams(self, form):
        form.addSection("Input")
        self._addSource(form)
        self._addSequences(form)
        form.addParam(
            "weights",
            params.PathParam,
            default="",
            label="AlphaFold weights",
            help="File params_model_K_multimer_v3.npz, or the folder with these files. Empty: the installed weights.",
        )
        form.addParam(
            "rank",
            params.IntParam,
            default=1,
            expertLevel=params.LEVEL_ADVANCED,
            condition=f"source == {int(FROM_COLABFOLD)}",
            label="Rank",
            validators=[EngineRange("predict --rank")],
            help="Rank of the model among those of ColabFold's folder; 1 is the best.",
        )
        addSeed(form, f"source == {int(FROM_SEQUENCES)}")
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    @staticmethod
    def _addSource(form):
        form.addParam(
            "source",
            params.EnumParam,
            choices=["ColabFold's output folder", "OpenFold's output file", "sequences"],
            default=FROM_COLABFOLD,
            label="Prediction from",
            important=True,
            help="An existing output must contain the single and pair representations: ColabFold writes them with "
            "--save-single-representations --save-pair-representations, OpenFold with --save_outputs.",
        )
        form.addParam(
            "colabfoldFolder",
            params.PathParam,
            condition=f"source == {int(FROM_COLABFOLD)}",
            label="Folder",
            help="Output folder of colabfold_batch --model-type alphafold2_multimer_v3.",
        )
        form.addParam(
            "openfoldFile",
            params.PathParam,
            condition=f"source == {int(FROM_OPENFOLD)}",
            label="File",
            help="Output file of OpenFold, NAME_model_K_multimer_v3_output_dict.pkl.",
        )

    @staticmethod
    def _addSequences(form):
        form.addParam(
            "inputSequences",
            params.MultiPointerParam,
            pointerClass="Sequence,SetOfSequences",
            allowsNull=True,
            condition=f"source != {int(FROM_COLABFOLD)}",
            label="Sequences",
            help="Sequences of the chains of one complex, in order. Give a chain once for each of its copies.",
        )
        form.addParam(
            "msa",
            params.EnumParam,
            choices=["public server", "none", "file"],
            default=MSA_SERVER,
            condition=f"source == {int(FROM_SEQUENCES)}",
            label="Alignment",
            help="Multiple sequence alignment. public server: the sequences are sent to ColabFold's server. none: "
            "single-sequence mode, for tests. file: an a3m file.",
        )
        form.addParam(
            "msaFile",
            params.FileParam,
            condition=f"source == {int(FROM_SEQUENCES)} and msa == {int(MSA_FILE)}",
            label="Alignment file (a3m)",
            help="As ColabFold writes it: the query first, complexes with a line of lengths and copies at the top.",
        )

    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.predictStep, key)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def predictStep(self, key):
        self._clearPredicted(key)
        options = {
            "--out": self._predicted(),
            "--weights": self.weights.get("") or Plugin.getWeights(),
            "--seed": self.seed.get(),
        }
        if self.source.get() == FROM_COLABFOLD:
            options.update({"--colabfold": self.colabfoldFolder.get(), "--rank": self.rank.get()})
        else:
            options["--fasta"] = self._writeFasta()
        if self.source.get() == FROM_OPENFOLD:
            options["--openfold"] = self.openfoldFile.get()
        if self.source.get() == FROM_SEQUENCES:
            options["--msa"] = ("server", "single-sequence", self.msaFile.get(""))[self.msa.get()]
            options["--colabfold-command"] = Plugin.getColabFold()
        self.runEngine("predict", options)

    def _clearPredicted(self, key):
        """Remove what an earlier attempt wrote, which the engine would refuse.

        Folders of ColabFold and OpenFold stay where nothing was changed, since these go on with what they have.
        """
        folder = self._predicted()
        if not self._isFolderOf(folder, key):
            self._startFolder(folder, key)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if os.path.isfile(os.path.join(folder, name)):
                cleanPath(os.path.join(folder, name))

    def createOutputStep(self, key):
        prediction = CocofoldPrediction(filename=self._predicted())
        prediction.setChains(chainLengths(prediction.getModelFileName()))
        model = AtomStruct(filename=prediction.getModelFileName())
        self._defineOutputs(outputPrediction=prediction, outputAtomStruct=model)
        for pointer in self.inputSequences:
            for output in (prediction, model):
                self._defineSourceRelation(pointer, output)

    def _comparesImages(self):
        # ColabFold's network; what it wrote is only read
        return self.source.get() == FROM_SEQUENCES

    def _predicted(self):
        return self._getExtraPath("prediction")

    def _sequences(self):
        """Yield the sequences of all inputs that are still there, those of sets as copies."""
        for given in (pointer.get() for pointer in self.inputSequences if pointer.get() is not None):
            yield from [one.clone() for one in given] if hasattr(given, "getSize") else [given]

    def _writeFasta(self):
        path = self._getExtraPath("complex.fasta")
        with open(path, "w", encoding="ascii") as fasta:
            for number, sequence in enumerate(self._sequences(), start=1):
                fasta.write(f">chain_{int(number)}\n{sequence.getSequence()}\n")
        return path

    def _validate(self):
        if self.source.get() == FROM_COLABFOLD:
            folder = self.colabfoldFolder.get("")
            if not glob.glob(os.path.join(glob.escape(folder), "*single_repr*.npy")):
                return [
                    f"{folder or 'The folder of ColabFold'} contains no single representation (*single_repr*.npy); run "
                    "colabfold_batch with --save-single-representations --save-pair-representations."
                ]
            return []
        errors = []
        if self.source.get() == FROM_OPENFOLD and not os.path.isfile(self.openfoldFile.get("")):
            errors.append(f"There is no output file of OpenFold: {self.openfoldFile.get('')}")
        readsAlignment = self.source.get() == FROM_SEQUENCES and self.msa.get() == MSA_FILE
        if readsAlignment and not os.path.isfile(self.msaFile.get("")):
            errors.append(f"There is no alignment file: {self.msaFile.get('')}")
        if not self.inputSequences:
            errors.append("Give the sequences of the complex's chains.")
        if any(pointer.get() is None for pointer in self.inputSequences):
            errors.append("A sequence of the list is gone: take it out of the list, or make it again.")
        errors += [
            f"{sequence.getSeqName()} is no protein; AlphaFold-Multimer predicts proteins only."
            for sequence in self._sequences()
            if not sequence.getIsAminoacids()
        ]
        return errors

    def _summary(self):
        if not hasattr(self, "outputPrediction"):
            return ["Not predicted yet."]
        return [f"{int(self.outputPrediction.getResidues())} residues; chains {self.outputPrediction._chains.get()}."]

    def _citations(self):
        program = "ahdritz2024" if self.source.get() == FROM_OPENFOLD else "mirdita2022"
        return [*super()._citations(), "jumper2021", "evans2021", program]

    def _methods(self):
        if not hasattr(self, "outputPrediction"):
            return []
        program = "OpenFold [ahdritz2024]" if self.source.get() == FROM_OPENFOLD else "ColabFold [mirdita2022]"
        return [f"The complex was predicted by AlphaFold-Multimer [evans2021] with {program}."]
