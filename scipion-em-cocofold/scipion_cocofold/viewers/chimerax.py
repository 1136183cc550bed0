"""Scripts that show models on their volume in ChimeraX."""

import os

from pwem.viewers.viewer_chimera import Chimera, ChimeraView

BY_CHAIN, BY_CHANGE, BY_CONFIDENCE = range(3)
COLOURS = ["chain", "change from the start", "confidence (B factor or pLDDT)"]


def chimeraxView(viewer, script):
    """Return a view that runs a script in ChimeraX, or a message that says what to set where it is not there."""
    program = Chimera.getProgram()
    if program and os.path.isfile(program):
        return ChimeraView(script)
    return viewer.errorMessage(
        f"ChimeraX was not found: {program or 'CHIMERA_HOME is not set'}.\nSet CHIMERA_HOME in scipion.conf to its "
        "folder, which has bin/ChimeraX, and start Scipion again ('scipion3 installp -p scipion-em-chimera' installs "
        "ChimeraX). "
        f"Or open this script in ChimeraX yourself:\n{os.path.abspath(script)}",
        "ChimeraX",
    )


def writeChimeraxScript(path, models, volume=None, colour=BY_CHAIN, changes=None, others=()):
    """Write a ChimeraX script that opens models on a volume and colours the last one.

    Parameters
    ----------
    path : str
        File of the script, ``.cxc``; a table of changes is written beside it.
    models : list of (str, str)
        Files and the names to show, all in Scipion's frame; all but the last are grey and half transparent.
    volume : Volume, optional
    colour : int
        One of `COLOURS`.
    changes : dict, optional
        Displacement (Å) by (chain, number), for `BY_CHANGE`.
    others : list of Volume
        Shown in red.
    """
    lines = ["close session", "set bgColor white"]
    number = 0
    volumes = [(shown, "volume", "#6b8fb560") for shown in (volume,) if shown is not None]
    for shown, name, hue in [*volumes, *((other, "other density", "#d55e00b0") for other in others)]:
        number += 1
        x, y, z = shown.getOrigin(force=True).getShifts()
        lines += [
            f"open {_quoted(shown.getFileName().split(':')[0])} name {_quoted(name, whole=False)}",
            f"volume #{number} voxelSize {shown.getSamplingRate():g}",
            f"volume #{number} origin {x:.3f},{y:.3f},{z:.3f}",
            f"volume #{number} style surface color {hue}",
        ]
    for model, name in models:
        number += 1
        lines += [
            f"open {_quoted(model)} name {_quoted(name, whole=False)}",
            f"cartoon #{number}",
            f"hide #{number} atoms",
        ]
        if (model, name) != models[-1]:
            lines += [f"color #{number} #8f959d80"]
    if colour == BY_CHANGE and changes:
        table = os.path.splitext(path)[0] + ".defattr"
        _writeAttribute(table, changes)
        most = max(1.0, *changes.values())
        lines += [
            f"open {_quoted(table)} models #{number}",
            f"color byattribute r:cocofold_change #{number} palette blue:white:red range 0,{most:.2f}",
            f"key blue:0 white:{most / 2:.1f} red:{most:.1f}",
        ]
    elif colour == BY_CONFIDENCE:
        lines += [f"color bfactor #{number} palette alphafold"]
    elif models:
        lines += [f"color #{number} bychain"]
    lines += [f"view #{number}"]
    with open(path, "w", encoding="utf-8") as script:
        script.write("\n".join(lines) + "\n")


def _writeAttribute(path, changes):
    with open(path, "w", encoding="utf-8") as table:
        table.write("attribute: cocofold_change\nmatch mode: 1-to-1\nrecipient: residues\n")
        table.writelines(f"\t/{chain}:{number}\t{value:.3f}\n" for (chain, number), value in changes.items())


def _quoted(text, whole=True):
    """Return a path, made absolute, or a name (not ``whole``) in ChimeraX' quotes."""
    text = os.path.abspath(text) if whole else text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
