"""The report's page: its numbers are the run's, it is one harmless file, and it is made of finished runs only."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
import yaml
from reports import COUNT, Page, give_plddt

from cocofold.assessment.backbone_geometry import measure_geometry
from cocofold.finetuning.residue_findings import ResidueErrors, write_errors
from cocofold.likelihood.residue_support import ViewCoverage
from cocofold.reporting.plots import cycles_plot
from cocofold.reporting.report_text import citations, describe_verdict, methods_paragraph
from cocofold.reporting.run_contents import FinishedRun, compare_with_start, read_run
from cocofold.reporting.run_report import write_report
from cocofold.structure.modelcif import write_model
from cocofold.structure.read_model import read_model

pytestmark = pytest.mark.slow

MOST_BYTES = 10_000_000
HOSTILE = "<img src=x onerror=alert(1)>'\"&amp;"


def alphas(path: Path) -> np.ndarray:
    """CA atoms by gemmi."""
    chains = gemmi.read_structure(str(path))[0]
    return np.array(
        [atom.pos.tolist() for chain in chains for residue in chain for atom in residue if atom.name == "CA"]
    )


def test_numbers_are_those_of_the_run(copy_of: Callable[..., Path]) -> None:
    run = copy_of()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    written = write_report(run)
    assert written.missing is None
    assert all(path.read_bytes() == content for path, content in before.items())
    page, metrics = Page(written.page), json.loads((run / "metrics.json").read_text())
    for name in ("frc_heldout", "frc_work"):
        assert page.figure(name) == f"{metrics[name + '_start']:.3f} → {metrics[name]:.3f}"
    assert page.figure("particles") == str(metrics["particles"]) == str(COUNT)
    assert page.figure("moved_angstrom") == f"{metrics['moved_angstrom']:.2f} Å"

    curves = metrics["frc_curves"]
    traces = {trace["name"]: trace for trace in page.data("plots")["correlation"]["data"]}
    for shown, name in (("fitted, start", "work, start"), ("held-out, result", "held-out, end")):
        assert traces[shown]["y"] == curves[name]
        assert traces[shown]["x"] == pytest.approx(1 / np.array(curves["resolution_angstrom"]))
    assert metrics["versions"]["torch"] in page.text
    # Fewer than 500 particles: the answer is of a second pass, which held none out, and the page must not say else.
    assert "The model comes from a second pass" in page.text
    assert "Held-out particles seen" not in page.text


def test_cycles_and_displacements_are_shown(copy_of: Callable[..., Path]) -> None:
    run = copy_of("all_fitted")
    plots = Page(write_report(run).page).data("plots")
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    rows = [row for row in rows if row[-1] == rows[-1][-1]]
    shown = {trace["name"]: trace["y"] for trace in plots["cycles"]["data"]}
    assert shown["fitted"] == [float(row[5]) for row in rows]
    assert "held-out" not in shown
    start, end = alphas(run / "models" / "cycle_00.cif"), alphas(run / "model.cif")
    in_place = plots["chain-0"]["data"][0]
    assert in_place["y"] == pytest.approx(np.linalg.norm(end - start, axis=1), abs=0.011)
    assert max(in_place["y"]) > 1
    superposed = plots["chain-0"]["data"][1]
    expected = gemmi.superpose_positions([gemmi.Position(*one) for one in start], [gemmi.Position(*one) for one in end])
    assert np.sqrt(np.square(superposed["y"]).mean()) == pytest.approx(expected.rmsd, abs=0.005)
    assert expected.rmsd < np.sqrt(np.square(in_place["y"]).mean()) - 0.01


def test_page_is_one_file_that_asks_for_nothing(copy_of: Callable[..., Path]) -> None:
    page = Page(write_report(copy_of()).page)
    assert len(page.source.encode()) < MOST_BYTES
    assert not page.named("link")
    assert not any("src" in script for script in page.named("script"))
    pictures = [str(image["src"]) for image in page.named("img")]
    assert len(pictures) == 18
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)
    policies = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert str(policies[0]).startswith("default-src 'none';")
    assert "http" not in str(policies[0])


def test_page_fits_a_phone_and_gives_its_figures_and_tables(copy_of: Callable[..., Path]) -> None:
    page = Page(write_report(copy_of()).page)
    assert 'name="viewport" content="width=device-width' in page.source
    assert re.search(r"@media \(max-width: 4\d\dpx\)", page.source)
    tables = re.findall(r'data-table="([\w-]+)"', page.source)
    assert "geometry" in tables
    assert all(f'id="{name}"' in page.source for name in tables)
    assert 'format: "svg"' in page.source
    assert "plotAsCsv(data)" in page.source


def test_viewer_gets_every_heavy_atom_where_it_is(copy_of: Callable[..., Path]) -> None:
    run = copy_of()
    molecules = Page(write_report(run).page).data("molecules")
    for name, file in (("start", "models/cycle_00.cif"), ("result", "model.cif")):
        block = gemmi.cif.read_string(molecules[name]).sole_block()
        shown = np.array([[float(x) for x in row] for row in block.find("_atom_site.Cartn_", ["x", "y", "z"])])
        assert shown == pytest.approx(read_model(run / file).positions, abs=0.0051)
    assert len(molecules["residues"]) == 214
    assert all(residue["plddt"] is None for residue in molecules["residues"])


def test_plddt_is_offered_where_the_model_states_it(copy_of: Callable[..., Path]) -> None:
    run = copy_of()
    page = Page(write_report(run).page)
    assert "plddt" not in {button.get("data-colour") for button in page.named("button")}
    plddt = give_plddt(run)
    page = Page(write_report(run).page)
    assert "plddt" in {button.get("data-colour") for button in page.named("button")}
    assert [residue["plddt"] for residue in page.data("molecules")["residues"]] == pytest.approx(plddt.tolist())
    assert "pLDDT" in {trace["name"] for trace in page.data("plots")["chain-0"]["data"]}


def test_names_cannot_break_out(copy_of: Callable[..., Path], project: Path, tmp_path: Path) -> None:
    benign = Page(write_report(copy_of()).page)
    shutil.rmtree(tmp_path / "run")
    star = project / "particles" / f"{HOSTILE}.star"
    shutil.copy(project / "particles" / "particles.star", star)
    run = copy_of(particles=str(star), model=f"</textarea></script><script>alert(1)</script>{HOSTILE}.cif")
    chain = "</script><script>alert(2)</script>"
    for file in (run / "model.cif", run / "models" / "cycle_00.cif"):
        document = gemmi.cif.read(str(file))
        block = document.sole_block()
        for item in ("_atom_site.auth_asym_id", "_pdbx_poly_seq_scheme.pdb_strand_id"):
            column = block.find_values(item)
            for row in range(len(column)):
                column[row] = gemmi.cif.quote(chain)
        document.write_file(str(file))
    page = Page(write_report(run).page)
    star.unlink()
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in benign.elements]
    assert page.data("molecules")["chains"] == [chain]
    assert f"{HOSTILE}.star" in page.text
    assert f"Chain {chain}" in page.text
    assert "onerror" not in {name for _, attributes in page.elements for name in attributes}


@pytest.mark.parametrize(
    ("missing", "words"),
    [("metrics.json", "is not finished"), ("config.yaml", "holds no run"), ("metrics.csv", "cannot be read")],
)
def test_unfinished_or_damaged_runs_are_refused(
    missing: str, words: str, copy_of: Callable[..., Path], command: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    run = copy_of()
    (run / missing).unlink()
    assert command("report", run) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (run / "report.html").exists()
    assert not (run / "isolde").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("metrics.csv", "moved_angstrom", "moved", "lacks moved_angstrom"),
        ("metrics.json", '"particles": ', '"particles": null, "were": ', "metrics.json, check.json or placement.json"),
        ("metrics.json", '"changed": ', '"changed": {"moved": [{}]}, "was": ', "('residues')"),
    ],
)
def test_figures_of_another_kind_are_refused_and_nothing_is_written(
    name: str,
    old: str,
    new: str,
    words: str,
    copy_of: Callable[..., Path],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture,
) -> None:
    run = copy_of()
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new, 1))
    assert command("report", run) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (run / "report.html").exists()
    assert not (run / "motions").exists()


def test_a_name_of_particles_that_no_disk_can_have_is_said_in_the_report(copy_of: Callable[..., Path]) -> None:
    assert "too long" in str(write_report(copy_of(particles="a" * 300 + ".star")).missing)


def test_report_without_particles_says_so_and_has_the_rest(
    copy_of: Callable[..., Path], project: Path, command: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    run = copy_of(particles="gone/particles.star")
    assert command("report", run) == 0
    assert "gone/particles.star" in capsys.readouterr().out
    page = Page(run / "report.html")
    assert page.text.count("Not shown: the particles could not be read") == 2
    assert not page.named("img")
    assert "orientations" not in page.data("plots")
    assert {"correlation", "cycles", "chain-0"} <= set(page.data("plots"))

    assert command("report", run, "--particles", project / "particles" / "particles.star") == 0
    assert len(Page(run / "report.html").named("img")) == 18
    assert command("report", run, "--particles", "elsewhere.star") == 2
    assert "elsewhere.star: no such file" in capsys.readouterr().err
    assert len(Page(run / "report.html").named("img")) == 18


def test_other_particles_are_not_taken_for_the_run_s(copy_of: Callable[..., Path]) -> None:
    run = copy_of(first=COUNT - 1)
    missing = write_report(run).missing
    assert missing is not None
    assert f"gives {COUNT - 1} particles, the run used {COUNT}" in missing


def test_relative_paths_are_found_beside_the_run(
    copy_of: Callable[..., Path], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project / "particles", tmp_path / "particles")
    run = copy_of(particles="particles/particles.star")
    monkeypatch.chdir(run)
    assert write_report(Path()).missing is None


def test_page_appears_whole_or_not_at_all(
    copy_of: Callable[..., Path], command: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    run = copy_of()
    (run / "report.html").mkdir()
    assert command("report", run) == 2
    assert "report.html: not written" in capsys.readouterr().err
    assert not list(run.glob(".*.part"))


@pytest.mark.parametrize(
    ("name", "verdict", "kind", "words"),
    [
        ("judged", "supported", "supported", "support the new model"),
        ("judged", "undecided", "undecided", "a hint and no more"),
        ("judged", "not supported", "not-supported", "The particles do not support a change"),
        ("all_fitted", "undecided", "undecided", "no particles were held out"),
    ],
)
def test_verdict_in_plain_words(name: str, verdict: str, kind: str, words: str, copy_of: Callable[..., Path]) -> None:
    run = copy_of(name)
    metrics = json.loads((run / "metrics.json").read_text())
    # As runs of the first version have them
    kept = {key: value for key, value in metrics.items() if not key.startswith("verdict_")}
    (run / "metrics.json").write_text(json.dumps({**kept, "verdict": verdict}))
    found: FinishedRun = read_run(run)
    said = describe_verdict(found, compare_with_start(found.start, found.answer))
    assert said.css_class == kind
    assert words in said.headline + said.explanation
    assert "lost the fold" not in said.explanation
    lossy = replace(found, metrics={**found.metrics, "cycles_that_lost_the_fold": 3})
    assert (
        "lost the fold (C–N bonds): 3"
        in describe_verdict(lossy, compare_with_start(found.start, found.answer)).explanation
    )


def test_residues_left_out_of_the_answer_are_counted(copy_of: Callable[..., Path]) -> None:
    run = copy_of()
    found = read_run(run)
    kept = np.arange(214) >= 4
    atoms = kept[found.answer.residue_of_atom]
    write_model(run / "model.cif", found.answer.only(kept), found.amplitudes[atoms], found.widths_angstrom[atoms])
    page = Page(write_report(run).page)
    assert "4 residues were left out" in page.text
    places = [residue["place"] for residue in page.data("molecules")["residues"]]
    assert places == list(range(4, 214))


def test_an_answer_of_the_first_pass_is_not_said_to_be_of_the_second(copy_of: Callable[..., Path]) -> None:
    found = read_run(copy_of())
    assert found.second_pass
    assert found.result_cycle_row == found.metrics["best_cycle"]
    # A second pass that lost the fold: its cycles are listed, and the answer is none of them.
    earlier = replace(found, metrics={**found.metrics, "frc_work": 0.123})
    assert earlier.cycles_fit_all
    assert not earlier.second_pass
    assert not cycles_plot(earlier)["layout"]["shapes"]


def test_methods_of_predictions_say_what_was_trained(copy_of: Callable[..., Path]) -> None:
    found = read_run(copy_of())
    assert found.metrics["source"] in methods_paragraph(found)
    earlier = {name: value for name, value in found.metrics.items() if name != "source"}
    assert "Residues moved as rigid bodies" in methods_paragraph(replace(found, metrics=earlier))
    found = replace(found, metrics={**found.metrics, "source": "The network was trained thus."})
    options = replace(found.options, prediction="bundle")
    said = methods_paragraph(replace(found, options=options))
    assert "The network was trained thus." in said
    assert "AlphaFold-Multimer was fine-tuned" in said
    assert "the network learned the result" in said
    said = methods_paragraph(replace(found, options=replace(options, teacher=False)))
    assert "the network learned" not in said
    cited = " ".join(one.bibtex for one in citations(replace(found, options=options)))
    assert "10.1038/s41586-021-03819-2" in cited
    assert "10.1038/s41586-021-03819-2" not in " ".join(one.bibtex for one in citations(found))


def test_settings_are_listed(copy_of: Callable[..., Path]) -> None:
    run = copy_of()
    text = Page(write_report(run).page).text
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert f"effort {settings['effort']}" in text
    assert "10.1038/s42004-026-01899-7" in text
    assert "AlphaFold-Multimer was fine-tuned" not in text


def test_geometry_stands_beside_the_verdict(copy_of: Callable[..., Path], command: Callable[..., int]) -> None:
    run = copy_of()
    assert command("report", run, "--title", "A <b>title</b>", "--relaxed", run / "models" / "cycle_00.cif") == 0
    page = Page(run / "report.html")
    assert "A <b>title</b>" in page.text
    start, result = (
        measure_geometry(read_model(run / name)) for name in (Path("models") / "cycle_00.cif", Path("model.cif"))
    )
    favoured = [f"{one.ramachandran_favoured:.1%}" for one in (start, result, start)]
    assert " ".join(["Ramachandran favoured", *favoured]) in page.text
    outliers = [str(len(one.ramachandran_outliers)) for one in (start, result, start)]
    assert " ".join(["Ramachandran outliers", *outliers]) in page.text


def test_what_the_run_found_on_its_way_is_told(copy_of: Callable[..., Path]) -> None:
    run = copy_of()
    question = {"question": "hand", "verdict": "agrees", "line": "hand: agrees with the model."}
    (run / "check.json").write_text(json.dumps({"contradictions": [], "questions": [question]}))
    (run / "placement").mkdir(exist_ok=True)
    whole = {"correlation": 0.5, "runner_up": 0.3, "trusted": True}
    (run / "placement" / "placement.json").write_text(
        json.dumps({"hand": "as-is", "whole": whole, "bodies": [], "warnings": ["The map is small."]})
    )
    (run / "candidate.cif").write_text("data_candidate\n")
    text = Page(write_report(run).page).text
    assert "hand: agrees with the model." in text
    assert "a correlation of 0.50; the next best place has 0.30, far enough apart to trust" in text
    assert "The map is small." in text
    assert "What the fit gave is candidate.cif" in text


def test_the_direction_in_which_views_tell_less_is_named(copy_of: Callable[..., Path]) -> None:
    run = copy_of()
    assert "times as uncertain" not in Page(write_report(run).page).text
    metrics, found = json.loads((run / "metrics.json").read_text()), read_run(run)
    views = ViewCoverage(np.array([2.1, 0.9, 0.8]), np.eye(3)[::-1])
    total = np.full(len(found.answer.residues), 0.6)
    write_errors(run, "model.cif", found.answer, ResidueErrors(total, total / 2, total / 3, views))
    (run / "metrics.json").write_text(json.dumps({**metrics, "views": views.as_dict()}))
    page = Page(write_report(run).page)
    assert "Along the axis (0.00, 0.00, 1.00) positions are 2.1 times as uncertain as across it" in page.text
    traces = {trace["name"]: trace for trace in page.data("plots")["chain-0"]["data"]}
    assert traces["along the longest axis"]["y"][0] == pytest.approx(0.6 / np.sqrt(3) * 2.1, abs=0.01)


def test_the_gain_has_an_error_and_a_short_run_says_so(copy_of: Callable[..., Path]) -> None:
    run = copy_of("judged")
    metrics = json.loads((run / "metrics.json").read_text())
    changed = {**metrics, "heldout_gain": 0.0123, "heldout_gain_error": 0.0021}
    (run / "metrics.json").write_text(json.dumps(changed))
    page = Page(write_report(run).page)
    assert "+0.0123 ± 0.0021" in page.text
    assert f"<title>{run.name}: CoCoFold report</title>" in page.source
    effort = yaml.safe_load((run / "config.yaml").read_text())["effort"]
    assert f"This was a short run, with {effort:g} of the usual steps" in page.text
