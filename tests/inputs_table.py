"""Tables of docs/inputs.md, each row with the tests that show it; ``python tests/inputs_table.py`` writes them anew.

The page has a table between two comments, of which the first names it. A test is named by its file below ``tests``
and its function; a text in brackets is one of the cases that the file lists.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "inputs.md"
_PLACE = re.compile(r"(?<=<!-- table: )([^\n]+)( -->\n)(.*?)(?=<!-- end of table -->)", re.DOTALL)


class Row(NamedTuple):
    """A row of a table, and the tests that show what it says."""

    cells: tuple[str, ...]
    tests: tuple[str, ...]


class Table(NamedTuple):
    """A table of the page."""

    headings: tuple[str, ...]
    rows: list[Row]

    def __str__(self) -> str:
        lines = [self.headings, ("---",) * len(self.headings), *(row.cells for row in self.rows)]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


TABLES = {
    "particles": Table(
        ("file", "program", "outcome"),
        [
            Row(
                (
                    "particles.star, three sets",
                    "RELION 3.1",
                    "read; its images agree with projections of the atoms at its poses (correlation 0.996 "
                    "or better without noise)",
                ),
                (
                    "particles/test_particles_files.py::test_file_is_read[adk/small300/particles.star]",
                    "particles/test_particles_files.py::test_file_is_read[adk/uniform/particles.star]",
                    "particles/test_particles_files.py::test_file_is_read[tcr/particles.star]",
                    "imaging/test_against_relion.py::test_every_noise_free_image_is_explained",
                ),
            ),
            Row(
                ("two_optics/particles.star", "RELION 3.1, two groups, one with a phase plate", "read"),
                (
                    "particles/test_particles_files.py::test_file_is_read[adk/two_optics/particles.star]",
                    "particles/test_particles_files.py::test_two_optics_groups_and_phase_plate",
                ),
            ),
            Row(
                (
                    "relion31.star*, relion31.v2.star*",
                    "RELION 3.1, comments between block and loop, both origins",
                    "read: 5 particles, box 256, 2.806 Å",
                ),
                (
                    "particles/test_particles_files.py::test_file_is_read[real_io/relion31.star]",
                    "particles/test_particles_files.py::test_file_is_read[real_io/relion31.v2.star]",
                ),
            ),
            Row(
                (
                    "relion30.star",
                    "RELION 3.0: pixel size from magnification, origins in pixels",
                    "read; equals RELION's own conversion to 3.1",
                ),
                ("particles/test_particles_files.py::test_relion_30_equals_relions_own_conversion",),
            ),
            Row(
                ("relion_refined_local_it004_data.star", "RELION 3.1, local refinement", "read"),
                (
                    ""
                    "particles/test_particles_files.py::"
                    "test_file_is_read[adk/small300/star_variants/relion_refined_local_it004_data.star]",
                ),
            ),
            Row(
                ("perturbed_poses_negative_tilt.star", "negative tilts", "read as the same orientations"),
                ("particles/test_particles_files.py::test_negative_tilt_is_the_same_orientation",),
            ),
            Row(
                (
                    "particles.cs or particles_csdat.cs with `--passthrough`",
                    "CryoSPARC, both file forms",
                    "read; equals the STAR to 1e-4° and 1e-3 Å",
                ),
                (
                    "particles/test_particles_files.py::test_cryosparc_equals_relion[particles.cs]",
                    "particles/test_particles_files.py::test_cryosparc_equals_relion[particles_csdat.cs]",
                ),
            ),
            Row(
                ("from_pyem.star", "pyem's conversion of the .cs", "read; equals the .cs"),
                ("particles/test_particles_files.py::test_cryosparc_equals_relion",),
            ),
            Row(
                (
                    "relion31.6opticsgroups.star*",
                    "RELION 3.1, six groups in scrambled order",
                    "refused, since groups have 1.24 and 1.25 Å; the message names all six. One group by "
                    "itself is read",
                ),
                (
                    ""
                    "particles/test_particles_files.py::"
                    "test_file_is_refused_with_the_reason[real_io/relion31.6opticsgroups.star]",
                    "particles/test_particles_files.py::test_one_of_six_scrambled_optics_groups",
                ),
            ),
            Row(
                (
                    "relion5.star*",
                    "RELION 5",
                    "refused, since its stacks are not beside it; the message names the folders that were "
                    "searched. It is read when the stacks are there",
                ),
                (
                    "particles/test_particles_files.py::test_file_is_refused_with_the_reason[real_io/relion5.star]",
                    "particles/test_particles_found_stacks.py::test_what_was_tried_is_said",
                    "particles/test_particles_files.py::test_relion5_with_its_stacks_present",
                ),
            ),
            Row(
                (
                    "empiar_10076_7.star*",
                    "RELION 2D job",
                    "refused, since it has no poses; the message names the missing labels",
                ),
                (
                    ""
                    "particles/test_particles_files.py::"
                    "test_file_is_refused_with_the_reason[real_io/empiar_10076_7.star]",
                ),
            ),
            Row(
                (
                    "empiar_10076_7.cs*, cryosparc_J2_particles_exported.cs*",
                    "CryoSPARC without 3D refinement",
                    "refused, since it has no poses (only 2D alignments); the message asks for the "
                    "particles of a 3D refinement, or the passthrough file",
                ),
                (
                    ""
                    "particles/test_particles_files.py::"
                    "test_file_is_refused_with_the_reason[real_io/empiar_10076_7.cs]",
                    ""
                    "particles/test_particles_files.py::"
                    "test_file_is_refused_with_the_reason[real_io/cryosparc_J2_particles_exported.cs]",
                ),
            ),
            Row(
                (
                    "STAR of Scipion with `rlnCtfImage`",
                    "Scipion",
                    "read; the label is ignored for two-dimensional images",
                ),
                ("particles/test_particles_of_others.py::test_scipion_names_the_picture_of_a_ctf",),
            ),
            Row(
                (".cs with 16 and more classes", "CryoSPARC", "read, with 100 classes too"),
                ("particles/test_particles_cryosparc.py::test_headers_of_many_classes",),
            ),
            Row(
                (
                    "STAR files appended to one another",
                    "scripts",
                    "refused, since a list of particles stands twice; the message says how to join them",
                ),
                ("particles/test_particles_of_others.py::test_appended_lists_are_refused",),
            ),
            Row(
                ("a label that is used stands twice", "scripts", "refused by name; an unused one may"),
                (
                    "particles/test_particles_of_others.py::test_labels_that_stand_twice",
                    "particles/test_particles_of_others.py::test_an_unused_label_may_stand_twice",
                ),
            ),
            Row(
                ("no number (`nan`, `<NA>`) in a column that is not used", "CtfFind, pandas, starfile", "read"),
                (
                    "particles/test_particles_of_others.py::test_columns_that_nobody_uses_decide_nothing",
                    "particles/test_particles_of_others.py::test_missing_numbers_as_pandas_and_starfile_write_them",
                ),
            ),
            Row(
                ("`rlnRandomSubset` 0", "scripts", "read; such particles are in no half set"),
                ("particles/test_particles_of_others.py::test_particles_in_no_half_set",),
            ),
            Row(
                (
                    "`#`, quotes and blanks in paths; Latin-1 text",
                    "RELION, gemmi, starfile",
                    "read; quotes and `#` mean something at the start of a value only",
                ),
                (
                    "particles/test_particles_of_others.py::test_letters_in_paths",
                    "particles/test_particles_of_others.py::test_letters_in_names_of_other_writers",
                    "particles/test_particles_of_others.py::test_letters_of_any_encoding[latin-1]",
                ),
            ),
            Row(
                ("images without `index@`", "RELION", "read from files of one image"),
                ("particles/test_particles_of_others.py::test_files_of_one_image",),
            ),
            Row(
                (
                    "particles.cs without its passthrough file",
                    "CryoSPARC",
                    "refused; the message names the missing columns and the passthrough file beside it",
                ),
                (
                    ""
                    "particles/test_particles_files.py::"
                    "test_file_is_refused_with_the_reason[adk/small300/cs/particles.cs]",
                ),
            ),
            Row(
                ("particles_passthrough.cs alone", "CryoSPARC", "refused; the message names the missing columns"),
                (
                    ""
                    "particles/test_particles_files.py::"
                    "test_file_is_refused_with_the_reason[adk/small300/cs/particles_passthrough.cs]",
                ),
            ),
            Row(
                (
                    "relion31.mrcs*, empiar_10076_7.mrc*, 50S-vol.mrc*",
                    "stacks and a map",
                    "refused; the message asks for the .star or .cs file",
                ),
                (
                    "particles/test_particles_files.py::test_file_is_refused_with_the_reason[real_io/relion31.mrcs]",
                    ""
                    "particles/test_particles_files.py::"
                    "test_file_is_refused_with_the_reason[real_io/empiar_10076_7.mrc]",
                    "particles/test_particles_files.py::test_file_is_refused_with_the_reason[real_io/50S-vol.mrc]",
                ),
            ),
        ],
    ),
    "images": Table(
        ("property", "treatment"),
        [
            Row(
                (
                    "protein is white or dark",
                    "found by correlation with the model, or given by `--contrast`; CryoSPARC's `blob/sign` is applied",
                ),
                (
                    "likelihood/test_images_contrast.py::test_white_dark_and_undecided_images",
                    "likelihood/test_images_contrast.py::test_a_run_on_dark_images_is_the_run_on_white_ones",
                    "particles/test_particles_cryosparc.py::test_values",
                ),
            ),
            Row(
                (
                    "phase-flipped, CTF-premultiplied",
                    "compared with |CTF|, CTF² (`rlnCtfDataArePhaseFlipped`, `rlnCtfDataAreCtfPremultiplied`)",
                ),
                (
                    "imaging/test_against_relion.py::test_phase_flipped_and_premultiplied_images_are_matched",
                    "particles/test_particles_star.py::test_flags_and_aberrations_are_carried",
                ),
            ),
            Row(
                (
                    "beam tilt, odd and even Zernike terms, anisotropic magnification of RELION",
                    "applied; signs checked against RELION's own demodulated images",
                ),
                (
                    ""
                    "likelihood/test_images_aberrations.py::"
                    "test_antisymmetric_aberrations_are_taken_out_as_relion_does",
                    "likelihood/test_images_aberrations.py::test_even_aberrations_match_relions_images",
                    "likelihood/test_images_aberrations.py::test_aberrations_are_applied_as_relion_defines_them",
                ),
            ),
            Row(
                (
                    "anisotropic magnification of CryoSPARC (`ctf/anisomag`)",
                    "applied: the matrix less the identity, row by row, of coordinates in Fourier space, "
                    "as its authors say",
                ),
                ("particles/test_particles_cryosparc.py::test_anisotropic_magnification_is_relions_less_the_identity",),
            ),
            Row(
                (
                    "beam tilt, trefoil, tetrafoil and shift of CryoSPARC",
                    "not applied, see [below](#aberrations-of-cryosparc)",
                ),
                (
                    "particles/test_particles_cryosparc.py::test_small_aberrations_are_left_out_and_told",
                    ""
                    "particles/test_particles_cryosparc.py::"
                    "test_large_aberrations_stop_unless_coarse_rings_are_compared",
                ),
            ),
            Row(
                (
                    "groups of different box or pixel size",
                    "refused; the message names the groups. Where pixel sizes differ by less than 0.5 %, "
                    "all are read at their mean and each group's own goes into its magnification matrix, "
                    "so that frequencies stay exact; a note says so",
                ),
                (
                    "particles/test_particles_star.py::test_groups_of_different_box_or_pixel_size_are_named",
                    "particles/test_particles_of_others.py::test_sessions_of_nearly_one_pixel_size",
                    "particles/test_particles_of_others.py::test_joined_sessions_show_atoms_where_each_has_them",
                ),
            ),
            Row(
                (
                    "stacks elsewhere",
                    "`--particles-dir` may be the stacks' own folder, or contain the last parts of their "
                    "names; `.mrc` stands for `.mrcs` and back",
                ),
                (
                    "particles/test_particles_found_stacks.py::test_names_are_matched_by_their_last_parts",
                    "particles/test_particles_found_stacks.py::test_mrc_for_mrcs",
                ),
            ),
            Row(
                ("stacks packed by gzip, bzip2, zstd, xz", "refused; the message has the command that unpacks them"),
                (
                    ""
                    "particles/test_particles_found_stacks.py::"
                    "test_packed_stacks_are_refused_with_the_command_that_unpacks_them",
                    ""
                    "particles/test_particles_found_stacks.py::"
                    "test_a_stack_that_zstd_packed_is_refused_with_the_command",
                ),
            ),
            Row(
                ("odd boxes", "refused, since programs disagree by a pixel on their centre"),
                (
                    "particles/test_particles_star.py::test_odd_box_of_relion_30_is_found_in_the_stack",
                    "particles/test_particles_star.py::test_defects_are_refused[odd]",
                ),
            ),
            Row(
                (
                    "stacks larger than memory",
                    "streamed, and read ahead while a step is computed; `--scratch DIR` copies them to a "
                    "fast disk first",
                ),
                (
                    "likelihood/test_images_streaming.py::test_every_way_to_read_gives_the_same_bits",
                    "likelihood/test_images_streaming.py::test_reading_happens_ahead_in_a_thread_that_ends",
                    "likelihood/test_images_scratch.py::test_the_chosen_images_alone_are_copied",
                ),
            ),
            Row(
                ("pixels that are not finite", "refused; the message names stack and image"),
                ("particles/test_particles_stacks.py::test_pixels_that_are_not_finite_are_refused_by_stack_and_image",),
            ),
            Row(
                (
                    "subtomograms as volumes, 2D classes, mirrored 2D alignments",
                    "refused; the message says how to extract subtomograms as 2D stacks",
                ),
                (
                    "particles/test_particles_star.py::test_defects_are_refused[rlnTomoSubtomogramRot]",
                    "particles/test_particles_star.py::test_defects_are_refused[rlnImageDimensionality 3]",
                    "particles/test_particles_star.py::test_defects_are_refused[rlnIsFlip]",
                ),
            ),
        ],
    ),
    "tilt series": Table(
        ("file", "outcome"),
        [
            Row(
                (
                    "`optimisation_set.star` of RELION 5's extraction with 2D stacks, or its "
                    "`particles.star` with that or `tomograms.star` beside it",
                    "read: an image's matrix is A_tilt A_subtomogram A_particle, its origin the projection "
                    "of the 3D origin, its defocus that of the tilt plus the particle's depth times "
                    "`rlnTomoHand`; only tilts of `rlnTomoVisibleFrames` are in a stack",
                ),
                (
                    "particles/test_tilt_series.py::test_relions_tilt_series_by_its_own_steps",
                    "particles/test_tilt_series.py::test_other_ways_to_write_the_same",
                ),
            ),
            Row(
                ("projection matrices of RELION 4 (`rlnTomoProjX`, ...), coordinates in pixels", "read likewise"),
                ("particles/test_tilt_series.py::test_other_ways_to_write_the_same[rlnTomoProj]",),
            ),
            Row(
                (
                    "a STAR of single tilt images with their poses (Warp, M, tomoDRGN, cryoDRGN), named by "
                    "`rlnTomoParticleName`, `rlnTomoParticleId`, or `rlnGroupName` with 5 to 200 images of "
                    "other doses each",
                    "read; a negative `rlnCtfBfactor` is taken for a dose, 4 Å² for an electron per Å²",
                ),
                (
                    "particles/test_tilt_series.py::test_single_tilt_images_are_known_by[Warp]",
                    "particles/test_tilt_series.py::test_single_tilt_images_are_known_by[names]",
                    "particles/test_tilt_series.py::test_single_tilt_images_are_known_by[numbers]",
                    "particles/test_tilt_series.py::test_groups_of_5_to_200_images_are_particles",
                ),
            ),
            Row(
                ("stacks that were multiplied by the CTF", "read (`rlnCtfDataAreCtfPremultiplied`)"),
                ("particles/test_tilt_series.py::test_relions_tilt_series_by_its_own_steps",),
            ),
            Row(
                ("subtomograms as volumes", "refused"),
                ("particles/test_particles_star.py::test_defects_are_refused[rlnCtfImage]",),
            ),
        ],
    ),
    "maps": Table(
        ("property", "treatment"),
        [
            Row(
                ("packed by gzip or bzip2", "read"),
                (
                    "mapfit/test_maps_of_others.py::test_modes_packings_and_stamps[gzip]",
                    "mapfit/test_maps_of_others.py::test_modes_packings_and_stamps[bzip2]",
                ),
            ),
            Row(
                ("no `MAP` in the header", "read if sizes and mode make sense"),
                ("mapfit/test_maps_of_others.py::test_modes_packings_and_stamps",),
            ),
            Row(
                ("a stack of one volume", "read"),
                ("mapfit/test_placement_maps.py::test_a_stack_of_one_volume_is_a_map",),
            ),
            Row(
                (
                    "no pixel size in the header",
                    "refused; `--map-pixel-size` of `check` and `finetune`, or `--pixel-size` of `fit`, gives it",
                ),
                (
                    "mapfit/test_maps_of_others.py::test_headers_without_a_pixel_size",
                    "mapfit/test_placement_maps.py::test_pixel_sizes_that_cannot_be",
                    "mapfit/test_placement_maps.py::test_the_option_that_a_message_names_is_there",
                ),
            ),
            Row(
                ("voxels of 10 Å and more", "read; no resolution finer than two voxels is told"),
                ("mapfit/test_placement_maps.py::test_the_resolution_of_coarse_maps",),
            ),
        ],
    ),
    "models": Table(
        ("content", "treatment"),
        [
            Row(
                (
                    "several chains",
                    'each is a body in the stage "chains", but for those of fewer than 200 heavy atoms, which move '
                    "with the chain that they touch most; equal chains share an entity",
                ),
                (
                    "sources/test_deformation.py::test_small_chains_move_with_what_they_touch_most",
                    "sources/test_deformation.py::test_chains_are_a_stage_of_a_complex_only",
                    "sources/test_deformation.py::test_bodies_move_apart",
                    "structure/test_modelcif.py::test_a_pdb_gets_entities_by_what_its_molecules_are",
                ),
            ),
            Row(
                (
                    "one chain name in several blocks",
                    "one chain in the stages; a block that begins the numbers anew is written as a copy of its own",
                ),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_blocks_of_one_chain_move_as_one_chain_and_only_joined_ends_are_linked",
                    "structure/test_modelcif.py::test_copies_under_one_chain_name_are_instances_of_their_own",
                ),
            ),
            Row(
                (
                    "chains without a name",
                    "get the name of their segment (columns 73 to 76), or else the next free letter; a note says so",
                ),
                ("structure/test_models_of_other_programs.py::test_molecules_that_chain_names_do_not_tell_apart",),
            ),
            Row(
                (
                    "two molecules under one chain name with the same numbers",
                    "PDB: told apart by segments, TER or numbers that start again; mmCIF: by "
                    "`label_asym_id`. Each gets a name of its own; a note says so",
                ),
                (
                    "structure/test_models_of_other_programs.py::test_molecules_that_chain_names_do_not_tell_apart",
                    "structure/test_models_of_other_programs.py::test_labels_tell_molecules_of_an_mmcif_apart",
                ),
            ),
            Row(
                (
                    "two copies in a row under one label of an mmCIF",
                    "refused; the message asks for a chain name for each",
                ),
                ("structure/test_models_refused.py::test_each_is_refused_with_its_reason[two copies in a row]",),
            ),
            Row(
                (
                    "line numbers in columns 73 to 80 (before 1996), wrong elements or charges",
                    "ignored; elements are taken from names",
                ),
                ("structure/test_models_of_other_programs.py::test_columns_and_encodings_of_pdb",),
            ),
            Row(
                ("residue numbers above 9,999", "read in hybrid 36, hexadecimal, five digits, or as stars"),
                (
                    "structure/test_models_as_they_come.py::test_pdb_without_elements_and_with_hybrid_36_numbers",
                    "structure/test_models_of_other_programs.py::test_numbers_above_9999[hexadecimal]",
                    "structure/test_models_of_other_programs.py::test_numbers_above_9999[five digits]",
                    "structure/test_models_of_other_programs.py::test_numbers_above_9999[stars]",
                ),
            ),
            Row(
                (
                    "ions of CHARMM and Amber (SOD, CLA, POT, CAL, CES), TIP3 water",
                    "read as these elements, as water's atoms",
                ),
                ("structure/test_models_of_other_programs.py::test_ions_and_waters_of_molecular_dynamics",),
            ),
            Row(
                ("UTF-8 with and without mark, UTF-16, Latin-1 text", "read"),
                (
                    "structure/test_models_of_other_programs.py::test_columns_and_encodings_of_pdb[utf-16]",
                    "structure/test_models_of_other_programs.py::test_encodings_of_mmcif[latin-1]",
                ),
            ),
            Row(
                (
                    "ZIP, bzip2, xz and other archives, folders",
                    "refused; the message names the command that unpacks them",
                ),
                (
                    "structure/test_models_refused.py::test_packed_files_say_what_unpacks_them",
                    "structure/test_models_refused.py::test_missing_file_and_folder",
                ),
            ),
            Row(
                ("insertion codes", "kept"),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_every_kind_is_read_moved_written_and_read_again[insertion "
                    "codes]",
                ),
            ),
            Row(
                (
                    "missing residues",
                    "the break is not bridged; the sequence in the file is kept, with the author's numbers "
                    "if the file gives them",
                ),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_a_missing_stretch_is_not_bridged_and_a_modified_residue_is_linked",
                    "structure/test_modelcif.py::test_sequence_numbers_labels_and_names_of_an_mmcif_survive",
                ),
            ),
            Row(
                (
                    "alternate conformations, with letters, without, or the second alone with one",
                    "the first one of each residue is used as a whole, the letters are dropped; a note says so",
                ),
                ("structure/test_model_conformations.py::test_the_first_of_two_conformations_is_kept",),
            ),
            Row(
                (
                    "two residues at one position",
                    "the first is kept, with or without letters; a ligand of the same number stays",
                ),
                (
                    "structure/test_model_conformations.py::test_the_first_of_several_residues_at_one_position_is_kept",
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_of_two_residues_at_one_position_the_first_stays_and_a_ligand_of_the_same_number_too",
                ),
            ),
            Row(
                ("hydrogens, deuterium", "move rigidly with their atom, and are projected with Z = 1"),
                ("structure/test_models_as_they_come.py::test_hydrogens_ride_with_their_heavy_atoms_and_count_as_one",),
            ),
            Row(
                (
                    "selenomethionine, phosphorylated, D and other residues with a backbone",
                    "move as linked residues; their chirality is kept",
                ),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_a_missing_stretch_is_not_bridged_and_a_modified_residue_is_linked[selenomethionine]",
                    "structure/test_models_as_they_come.py::test_a_d_residue_keeps_its_hand",
                ),
            ),
            Row(
                ("residues without N or C", "move rigidly with the residue to which they are bonded"),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_an_incomplete_residue_rides_with_the_residue_that_it_is_bonded_to",
                ),
            ),
            Row(
                (
                    "glycans, caps, covalent ligands",
                    "move rigidly with their residue; a side chain that holds one does not turn",
                ),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_a_glycan_keeps_its_bond_to_the_protein_and_between_its_sugars",
                    "structure/test_models_as_they_come.py::test_caps_and_bonded_ligands_ride_with_their_residue[PLP]",
                ),
            ),
            Row(
                (
                    "metals",
                    "move rigidly with the nearest residue that coordinates them; the other distances are restrained",
                ),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_metals_stay_with_what_coordinates_them_and_a_calcium_is_no_alpha_carbon",
                ),
            ),
            Row(
                ("free ligands, waters", "move rigidly with their neighbours, each in one piece"),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_bonds_within_a_residue_and_what_rides_stay_whole[ligand]",
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_bonds_within_a_residue_and_what_rides_stay_whole[waters]",
                    "sources/test_deformation.py::test_passengers_far_from_all_nodes_follow_the_nearest",
                ),
            ),
            Row(
                (
                    "DNA, RNA, with protein or alone",
                    "each nucleotide moves as a residue does: links, pairs of bases and clashes are "
                    "restrained, and at the last stage its base and its phosphate turn about chi, gamma, "
                    "beta and alpha; the pucker of its sugar stays",
                ),
                (
                    "structure/test_nucleic_acids.py::test_nucleotides_have_frames_and_links",
                    "structure/test_nucleic_acids.py::test_a_crystal_structure_costs_little_and_links_pull_together",
                    "structure/test_nucleic_acids.py::test_a_pair_is_held_and_lets_go",
                    "structure/test_nucleic_acids.py::test_torsions_of_a_nucleotide_turn_its_base_and_its_phosphate",
                    ""
                    "structure/test_nucleic_acids.py::"
                    "test_the_source_starts_at_the_model_and_keeps_what_is_inside_nucleotides",
                ),
            ),
            Row(
                ("modified nucleotides", "the same, if the file or gemmi's table has them as part of a strand"),
                (
                    ""
                    "structure/test_nucleic_acids.py::"
                    "test_a_modified_nucleotide_of_a_strand_has_a_frame_and_a_ligand_has_none",
                ),
            ),
            Row(
                ("nucleotides without C1'", "move rigidly with their neighbours"),
                (
                    "structure/test_models_as_they_come.py::test_a_nucleotide_is_not_tied_to_a_residue_by_a_metal",
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_bonds_within_a_residue_and_what_rides_stay_whole[nucleic "
                    "acids]",
                ),
            ),
            Row(
                ("unknown elements", "taken from the atom's name, or else treated as carbon; a note says so"),
                ("structure/test_models_as_they_come.py::test_unknown_elements_count_as_what_their_names_say",),
            ),
            Row(
                ("occupancy 0 of single atoms", "kept, and projected with full weight"),
                ("structure/test_confidence.py::test_single_atoms_without_occupancy_count",),
            ),
            Row(
                (
                    "occupancy 0 of all atoms of a residue, not of the whole file",
                    "the residue is carried along as a disordered one; see below",
                ),
                (
                    "structure/test_confidence.py::test_marks_come_back_from_files",
                    "structure/test_confidence.py::test_models_without_marks_stay_as_they_are",
                ),
            ),
            Row(
                ("several models", "the first one is used; a note says so"),
                (
                    ""
                    "structure/test_models_as_they_come.py::"
                    "test_the_first_of_several_models_is_taken_and_the_user_is_told",
                ),
            ),
            Row(
                (
                    "cell, symmetry, anisotropic B factors, experiment",
                    "read, but not written, since the model has moved",
                ),
                ("structure/test_modelcif.py::test_what_is_true_of_the_input_only_is_left_out",),
            ),
            Row(
                ("CA atoms alone, phosphates alone, ions alone", "refused; the message says what to do"),
                (
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[CA only]",
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[phosphates only]",
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[calcium only]",
                ),
            ),
            Row(
                (
                    "empty, truncated, without positions, binary, a map, reflections, a monomer dictionary",
                    "refused; the message gives the reason",
                ),
                (
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[empty]",
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[truncated mmCIF]",
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[positions that are none]",
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[binary junk]",
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[a map]",
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[reflections]",
                    "structure/test_models_refused.py::test_each_is_refused_with_its_reason[monomer dictionary]",
                ),
            ),
        ],
    ),
    "B factors": Table(
        ("found", "B factors are"),
        [
            Row(
                (
                    "local pLDDT of ModelCIF (`_ma_qa_metric_local`: AlphaFold DB, AlphaFold 3, Boltz, "
                    "Chai, our own files)",
                    "these metrics are used instead; values up to 1 are multiplied by 100",
                ),
                ("structure/test_confidence.py::test_metrics_of_modelcif",),
            ),
            Row(
                (
                    "a method (`_exptl.method`, `EXPDTA`), a resolution, anisotropic B factors or a refinement program",
                    "experimental",
                ),
                ("structure/test_confidence.py::test_what_the_file_says_goes_before_values",),
            ),
            Row(
                ("all B factors are equal", "nothing: packing alone decides"),
                (
                    "structure/test_confidence.py::test_tails_that_touch_nothing",
                    "structure/test_confidence.py::test_folded_proteins_are_ordered",
                ),
            ),
            Row(
                ("values below 0 or above 100", "experimental"),
                ("structure/test_confidence.py::test_what_cannot_be_is_refused",),
            ),
            Row(
                (
                    "the file names a predictor (AlphaFold, ColabFold, OpenFold, ESMFold, Boltz, Chai, "
                    "RoseTTAFold, OmegaFold, Protenix)",
                    "pLDDT",
                ),
                ("structure/test_confidence.py::test_a_predictor_that_the_file_names",),
            ),
            Row(
                (
                    "the values' rank correlation with the number of contacts is 0.2 or more (predictions "
                    "have 0.24 to 0.65)",
                    "pLDDT: the packed core is what a prediction is sure of",
                ),
                ("structure/test_confidence.py::test_low_plddt_of_either_scale",),
            ),
            Row(
                (
                    "it is -0.2 or less (crystal structures have -0.5 to -0.6)",
                    "experimental: the packed core moves least",
                ),
                ("structure/test_confidence.py::test_b_factors_of_a_crystal_are_none",),
            ),
            Row(
                ("values differ within residues", "experimental"),
                ("structure/test_confidence.py::test_one_asks_where_it_cannot_be_told_and_matters",),
            ),
            Row(
                (
                    "none of these",
                    "unknown: packing alone decides, and if pLDDT would show more disordered residues the command asks",
                ),
                ("structure/test_confidence.py::test_one_asks_where_it_cannot_be_told_and_matters",),
            ),
        ],
    ),
}


def with_tables(page: str) -> str:
    """The page with its tables as they are here."""
    return _PLACE.sub(lambda found: f"{found[1]}{found[2]}{TABLES[found[1]]}", page)


def names_of_tables(page: str) -> list[str]:
    """Names of the tables for which the page has a place, in its order."""
    return [found[1] for found in _PLACE.finditer(page)]


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
