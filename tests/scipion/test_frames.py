"""Frames of models: Scipion's, with voxel 0 at the volume's origin, and the box's own."""

from __future__ import annotations

import gzip

import gemmi
import numpy as np
import pytest

pytest.importorskip("pwem", reason="scipion-em is not installed (extra 'scipion')")

from pwem.objects import Transform, Volume
from pyworkflow.exceptions import PyworkflowException
from scipion_cocofold.frames import convertToMrc, findShiftToBox, guessShiftToBox
from scipion_cocofold.models import chainLengths, isPlaced, readPositions, writeMoved

from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model


@pytest.fixture
def closed(shared_data):
    return shared_data / "adk" / "start_closed.cif"


def a_volume(path, shifts=None) -> Volume:
    volume = Volume(location=str(path))
    volume.setSamplingRate(2.5)
    if shifts is not None:
        origin = Transform()
        origin.setShifts(*shifts)
        volume.setOrigin(origin)
    return volume


@pytest.mark.parametrize("shifts", [None, (-80.0, -80.0, -80.0), (12.5, -40.0, 7.0)])
@pytest.mark.parametrize("frame", ["box", "scipion"])
def test_density_tells_the_frame(shifts, frame, shared_data, tmp_path, closed):
    volume = a_volume(shared_data / "adk" / "uniform" / "reconstruction.mrc", shifts)
    origin = np.array(shifts or (-80.0, -80.0, -80.0))
    model = tmp_path / "model.cif"
    writeMoved(str(closed), str(model), origin if frame == "scipion" else np.zeros(3))
    shift, (density, other) = findShiftToBox(str(model), volume)
    assert np.allclose(shift, -origin if frame == "scipion" else 0)
    assert density > 1 > other


def test_without_a_volume_the_box_tells_the_frame(tmp_path, closed):
    assert np.allclose(guessShiftToBox(str(closed), 64, 2.5), 0)
    writeMoved(str(closed), str(tmp_path / "centred.cif"), (-80.0, -80.0, -80.0))
    assert np.allclose(guessShiftToBox(str(tmp_path / "centred.cif"), 64, 2.5), 80)


def test_moving_changes_nothing_but_positions(tmp_path, closed):
    model = read_model(closed)
    source, target = tmp_path / "placed.cif", tmp_path / "moved.cif"
    write_model(source, model, details="placed", placed_as={"hand": "mirrored", "symmetry": "C1"})
    assert isPlaced(str(source))
    assert not isPlaced(str(closed))
    writeMoved(str(source), str(target), (1.5, -20.25, 300.0))
    assert isPlaced(str(target))
    moved = read_model(target)
    assert np.abs(moved.positions - model.positions - (1.5, -20.25, 300.0)).max() < 2e-3
    assert moved.residues == model.residues
    before, after = (gemmi.cif.read(str(path)).sole_block() for path in (source, target))
    categories = set(before.get_mmcif_category_names())
    assert set(after.get_mmcif_category_names()) == categories
    for category in categories - {"_atom_site."}:
        assert after.get_mmcif_category(category) == before.get_mmcif_category(category), category


def test_a_model_with_empty_values_is_moved(tmp_path, closed):
    content = gemmi.cif.read(str(closed))
    content.sole_block().set_pair("_struct.title", "''")
    source, target = tmp_path / "empty.cif", tmp_path / "moved.cif"
    content.write_file(str(source))
    writeMoved(str(source), str(target), (1.0, 0.0, 0.0))
    assert np.abs(readPositions(str(target)) - readPositions(str(source)) - (1.0, 0.0, 0.0)).max() < 2e-3


@pytest.mark.parametrize("name", ["blank.pdb", "cif_named.pdb", "gz.cif.gz", "latin.pdb"])
def test_what_the_engine_reads_is_moved(name, shared_data, tmp_path, closed):
    source = shared_data / "cases" / "models" / "scipion_other_endings" / name
    if not source.is_file():
        pytest.skip(f"no case {source}")
    target = tmp_path / "moved.cif"
    writeMoved(str(source), str(target), (0.5, -1.0, 2.0))
    moved = readPositions(str(target))
    assert len(moved) == 1656
    assert np.abs(moved - readPositions(str(source)) - (0.5, -1.0, 2.0)).max() < 2e-3
    assert chainLengths(str(source)) == {"A": 214}


def by_biopython(source, target):
    from Bio.PDB.mmcifio import MMCIFIO
    from Bio.PDB.MMCIFParser import MMCIFParser

    writer = MMCIFIO()
    writer.set_structure(MMCIFParser(QUIET=True).get_structure("x", str(source)))
    writer.save(str(target))


def written_as(kind, source, folder):
    """The same model as programs and people leave it, most of which Biopython cannot read or write."""
    target = folder / {"mmCIF called .pdb": "x.pdb", "gzip": "x.cif.gz", "PDB called .cif": "x.cif"}.get(kind, "x.cif")
    text = source.read_text()
    structure = gemmi.read_structure(str(source))
    if kind == "gemmi without a cell":
        structure.make_mmcif_document().write_file(str(target))
    elif kind == "Biopython":
        by_biopython(source, target)
    elif kind == "several blocks":
        target.write_text("data_comp_LIG\n_chem_comp.id LIG\n" + text + "\ndata_last\n_x.y 1\n")
    elif kind == "gzip":
        target.write_bytes(gzip.compress(text.encode()))
    elif kind == "Latin-1":
        target.write_bytes(("# J. M\xfcller\n" + text).encode("latin-1"))
    elif kind == "PDB called .cif":
        structure.write_pdb(str(target))
    else:
        target.write_text(text)
    return target


@pytest.mark.parametrize(
    "kind",
    [
        "gemmi without a cell",
        "Biopython",
        "several blocks",
        "gzip",
        "Latin-1",
        "PDB called .cif",
        "mmCIF called .pdb",
    ],
)
def test_models_of_other_writers_are_moved(kind, tmp_path, closed):
    source, target = written_as(kind, closed, tmp_path), tmp_path / "moved.cif"
    writeMoved(str(source), str(target), (0.5, -1.0, 2.0))
    moved, known = read_model(target), read_model(closed)
    assert np.abs(moved.positions - known.positions - (0.5, -1.0, 2.0)).max() < 2e-3
    assert moved.residues == known.residues
    assert chainLengths(str(source)) == {"A": 214}


def test_what_the_engine_refuses_is_refused_with_its_message(tmp_path):
    (tmp_path / "wrong.cif").write_text("data_nothing\n")
    with pytest.raises(PyworkflowException, match="holds no atoms; give an mmCIF or PDB file"):
        writeMoved(str(tmp_path / "wrong.cif"), str(tmp_path / "moved.cif"), (1.0, 0.0, 0.0))
    assert not (tmp_path / "moved.cif").exists()


def test_a_model_that_has_changed_is_read_again(tmp_path, closed):
    path = str(tmp_path / "model.cif")
    writeMoved(str(closed), path, (0.0, 0.0, 0.0))
    before = readPositions(path)
    writeMoved(str(closed), path, (1.0, 0.0, 0.0))
    assert np.allclose(readPositions(path) - before, (1.0, 0.0, 0.0), atol=2e-3)


def test_volumes_of_other_formats_are_converted(tmp_path, shared_data):
    import mrcfile
    from pwem.emlib.image import ImageHandler

    original = shared_data / "adk" / "uniform" / "reconstruction.mrc"
    stack = tmp_path / "volume.spi"
    ImageHandler().convert(str(original), str(stack))
    converted = convertToMrc(a_volume(stack), str(tmp_path))
    assert np.allclose(mrcfile.read(converted), mrcfile.read(original))
    with mrcfile.open(converted, header_only=True) as mrc:
        assert float(mrc.voxel_size.x) == pytest.approx(2.5)
