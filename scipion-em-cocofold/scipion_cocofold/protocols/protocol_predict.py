"""Protocol that takes over an AlphaFold-Multimer prediction, or makes one."""

import glob
import os

from pwem.objects import AtomStruct
from pyworkflow.constants import BETA
from pyworkflow.protocol import params

from scipion_cocofold import Plugin

from ..objects import CocofoldPrediction
from ..residues import chainLengths
from .base import ProtCocofoldBase, addSeed

FROM_COLABFOLD, FROM_OPENFOLD, FROM_SEQUENCES = range(3)
MSA_SERVER, MSA_NONE, MSA_FILE = range(3)


class ProtCocofoldPredict(ProtCocofoldBase):
    """Takes over a prediction of AlphaFold-Multimer with its representations, or makes one with ColabFold or OpenFold.

    The prediction is what fine-tuning trains the network of; its model is an output as well. Predictions of
    AlphaFold 3, Boltz or Chai have no such representations: import their model and fine-tune that.
    """

    _label = "AlphaFold prediction"
    _devStatus = BETA
    _possibleOutputs = {"outputPrediction": CocofoldPrediction, "outputAtomStruct": AtomStruct}

    def _defineParams(self, form):
        form.addSection("Input")
        form.addParam(
            "source",
            params.EnumParam,
            choices=["ColabFold's output folder", "OpenFold's output file", "sequences"],
            default=FROM_COLABFOLD,
            label="Prediction from",
            important=True,
            help="An existing output needs the single and pair representations: ColabFold writes them with "
            "--save-single-representations --save-pair-representations, OpenFold with --save_outputs.",
        )
        form.addParam(
            "colabfoldFolder",
            params.PathParam,
            condition=f"source == {int(FROM_COLABFOLD)}",
            label="Folder",
            help="Output of colabfold_batch --model-type alphafold2_multimer_v3.",
        )
        form.addParam(
            "openfoldFile",
            params.PathParam,
            condition=f"source == {int(FROM_OPENFOLD)}",
            label="File",
            help="NAME_model_K_multimer_v3_output_dict.pkl",
        )
        form.addParam(
            "inputSequences",
            params.MultiPointerParam,
            pointerClass="Sequence,SetOfSequences",
            allowsNull=True,
            condition=f"source != {int(FROM_COLABFOLD)}",
            label="Sequences",
            help="Chains of one complex, each copy once, in order.",
        )
        form.addParam(
            "msa",
            params.EnumParam,
            choices=["public server", "none", "file"],
            default=MSA_SERVER,
            condition=f"source == {int(FROM_SEQUENCES)}",
            label="Alignment",
            help="public server: the sequences are sent to ColabFold's server. none: single-sequence mode, for tests.",
        )
        form.addParam(
            "msaFile",
            params.FileParam,
            condition=f"source == {int(FROM_SEQUENCES)} and msa == {int(MSA_FILE)}",
            label="Alignment (a3m)",
        )
        form.addParam(
            "weights",
            params.PathParam,
            default="",
            label="AlphaFold weights",
            help="params_model_K_multimer_v3.npz, or the folder that has these files. Empty: the installed ones.",
        )
        form.addParam(
            "rank",
            params.IntParam,
            default=1,
            expertLevel=params.LEVEL_ADVANCED,
            condition=f"source == {int(FROM_COLABFOLD)}",
            label="Rank",
            help="Which of the folder's models; 1 is the best.",
        )
        addSeed(form)
        self._addGpuParams(form)
        form.addParallelSection(threads=4, mpi=0)

    def _insertAllSteps(self):
        key = self._inputsHash()
        self._insertFunctionStep(self.predictStep, key)
        self._insertFunctionStep(self.createOutputStep, key, needsGPU=False)

    def predictStep(self, key):
        words = [
            "--out",
            self._predicted(),
            "--weights",
            self.weights.get("") or Plugin.getWeights(),
            "--seed",
            self.seed.get(),
        ]
        if self.source.get() == FROM_COLABFOLD:
            words += ["--colabfold", self.colabfoldFolder.get(), "--rank", self.rank.get()]
        else:
            words += ["--fasta", self._writeFasta()]
        if self.source.get() == FROM_OPENFOLD:
            words += ["--openfold", self.openfoldFile.get()]
        if self.source.get() == FROM_SEQUENCES:
            words += ["--msa", ("server", "single-sequence", self.msaFile.get(""))[self.msa.get()]]
            words += ["--colabfold-command", Plugin.getColabFold()]
        self.runEngine("predict", words)

    def createOutputStep(self, key):
        prediction = CocofoldPrediction(filename=self._predicted())
        prediction.setChains(chainLengths(prediction.getModelFileName()))
        model = AtomStruct(filename=prediction.getModelFileName())
        self._defineOutputs(outputPrediction=prediction, outputAtomStruct=model)
        for pointer in self.inputSequences:
            self._defineSourceRelation(pointer, prediction)

    def _predicted(self):
        return self._getExtraPath("prediction")

    def _sequences(self):
        for pointer in self.inputSequences:
            given = pointer.get()
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
                    "%s holds no single representation (*single_repr*.npy); run colabfold_batch with "
                    "--save-single-representations --save-pair-representations." % (folder or "The folder of ColabFold")
                ]
            return []
        errors = []
        if self.source.get() == FROM_OPENFOLD and not os.path.isfile(self.openfoldFile.get("")):
            errors.append(f"OpenFold's output file is not there: {self.openfoldFile.get('')}")
        if not self.inputSequences:
            errors.append("Give the sequences of the complex's chains.")
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
        return ["cocofold2026", "evans2021", "mirdita2022"]
