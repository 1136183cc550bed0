"""The usual workflow, from import to assessment, on particles that the engine simulates: nothing is fetched."""

import importlib.util
import json
import os
import unittest

from pwem.protocols import ProtImportParticles, ProtImportPdb, ProtImportVolumes
from pyworkflow.tests import BaseTest, setupTestProject

from scipion_cocofold import Plugin
from scipion_cocofold.engine import callEngine
from scipion_cocofold.protocols import (
    ProtCocofoldAssess,
    ProtCocofoldCheck,
    ProtCocofoldFinetune,
    ProtCocofoldFit,
    ProtCocofoldRelax,
    ProtCocofoldSelect,
)

_READS_STAR = importlib.util.find_spec("relion") is not None
_PIXEL_SIZE = 2.5


class TestCocofoldInstallation(BaseTest):
    """Whether the engine is there and answers."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)

    def testEngineAnswers(self):
        self.assertEqual(Plugin.validateInstallation(), [])
        # Raises with the engine's message if there is none
        callEngine("demo", {"--help": True})


@unittest.skipUnless(_READS_STAR, "importing a STAR file needs scipion-em-relion")
class TestCocofoldWorkflow(BaseTest):
    """Adenylate kinase, imaged in its open state and predicted in the closed one, 7 Å away."""

    @classmethod
    def setUpClass(cls):
        setupTestProject(cls)
        cls.folder = os.path.abspath(cls.proj.getTmpPath("cocofold_data"))
        callEngine("demo", {"--data-only": True, "--count": 300, "--out": cls.folder})
        cls.particles = cls._import(
            ProtImportParticles,
            importFrom=ProtImportParticles.IMPORT_FROM_RELION,
            starFile=os.path.join(cls.folder, "particles", "particles.star"),
            samplingRate=_PIXEL_SIZE,
            magnification=50000,
        ).outputParticles
        volume = os.path.join(cls.folder, "particles", "map.mrc")
        cls.volume = cls._import(ProtImportVolumes, filesPath=volume, samplingRate=_PIXEL_SIZE).outputVolume
        cls.start, cls.truth = (
            cls._import(
                ProtImportPdb, inputPdbData=ProtImportPdb.IMPORT_FROM_FILES, pdbFile=os.path.join(cls.folder, path)
            ).outputPdb
            for path in ("start.cif", os.path.join("particles", "truth.cif"))
        )

    @classmethod
    def _import(cls, kind, **parameters):
        protocol = cls.newProtocol(kind, **parameters)
        cls.launchProtocol(protocol)
        return protocol

    def testWorkflow(self):
        placed = self._import(ProtCocofoldFit, inputModel=self.start, inputVolume=self.volume)
        self.assertEqual(placed.outputPlacement._hand.get(), "as-is")
        self.assertTrue(placed.outputAtomStruct.hasVolume())

        given = {"inputParticles": self.particles, "inputStructure": placed.outputAtomStruct}
        checked = self._import(ProtCocofoldCheck, **given)
        self.assertEqual(checked.outputAtomStruct._cocofoldCheck.get(), "agrees")

        selected = self._import(ProtCocofoldSelect, inputParticles=self.particles, count=200)
        self.assertEqual(selected.outputParticles.getSize(), 200)

        inputs = {"inputParticles": self.particles, "inputModel": self.start, "inputVolume": self.volume}
        settings = {"inputPlacement": placed.outputPlacement, "effort": 0.05, "checkFirst": False}
        tuned = self._import(ProtCocofoldFinetune, **inputs, **settings, inputReference=self.truth)
        with open(tuned._getExtraPath("verdict.json")) as content:
            verdict = json.load(content)
        self.assertIn(verdict["verdict"], ("supported", "supported in part"))
        self.assertLess(verdict["assessment"]["ca_rmsd"], 0.9 * verdict["assessment"]["start"]["ca_rmsd"])

        relaxed = self._import(ProtCocofoldRelax, inputStructure=tuned.outputAtomStruct, inputParticles=self.particles)
        given = {"inputStructure": relaxed.outputAtomStruct, "inputReference": self.truth}
        assessed = self._import(ProtCocofoldAssess, **given)
        self.assertLess(assessed.outputAtomStruct._cocofoldCaRmsd.get(), 6.5)
