"""Ordinary workflows from the templates: ``python -m scipion_cocofold.workflows`` writes them beside the templates.

Scipion's *Import workflow* reads plain JSON. A template has fields in it, for which only ``scipion template`` asks, and
which ``scipion_cocofold.headless --template`` fills in.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
from dataclasses import dataclass
from typing import Any, Dict, List

from .pixels import contradict, filePixelSize

TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")
TEMPLATE_ENDING, WORKFLOW_ENDING = ".json.template", ".json"
# A field of a template, as in ~Title|default|type|alias~; quotes around it belong to a text
_FIELD = re.compile(
    r'(?P<quoted>")?~(?P<title>[^|~]*)\|(?P<default>[^|~]*)\|(?P<type>\d)\|(?P<alias>[^~]*)~(?(quoted)")'
)
_FORM = (
    "A template has lines that describe it, then '[' at the end of a line and protocols with object.className and "
    "object.id, as Scipion's Export workflow writes them."
)
# Word in the titles of fields that may stay empty
_OPTIONAL = "optional"
# Types of fields, as Scipion numbers them
_PATHS, _INTEGER, _NUMBER = ("2", "6"), "3", "4"
# Fields of pixel sizes, and that of the file which has it: an empty one means the file's
_PIXEL_SIZE_OF = {"px": "particles", "mappx": "map"}


class TemplateError(Exception):
    """A template that does not exist, or values that it does not take; the message says what to do."""


@dataclass(frozen=True)
class Field:
    """A field of a template: its name in command lines, what it asks for, its default, its type."""

    alias: str
    title: str
    default: str
    type: str

    @property
    def isOptional(self) -> bool:
        """Whether it may stay empty, as its title says."""
        return _OPTIONAL in self.title


def workflowOf(template: str) -> str:
    """Return the workflow of a template as JSON text: fields have their defaults, numbers without one are left out.

    Parameters
    ----------
    template : str
        Content of a template's file: lines that describe it, then a list of protocols.
    """
    return _filled(template, {field.alias: field.default for field in fieldsOf(template)})


def fieldsOf(template: str) -> List[Field]:
    """Return the fields of a template, in order."""
    names = ("alias", "title", "default", "type")
    return [Field(**{name: found[name] for name in names}) for found in _FIELD.finditer(template)]


def fillIn(template: str, given: Dict[str, str]) -> str:
    """Return the workflow of a template with values filled in, as JSON text.

    Parameters
    ----------
    template : str
        Content of a template's file.
    given : dict
        Values by alias; paths are made absolute. Other fields have their defaults, and pixel sizes those of the files;
        optional ones may stay empty.

    Raises
    ------
    TemplateError
        If a name is unknown, a file is missing, a value is no number, a pixel size is not the file's, or the template
        is no list of protocols.
    """
    fields = {field.alias: field for field in fieldsOf(template)}
    unknown = sorted(set(given) - set(fields))
    if unknown:
        known = "\n".join(f"  {field.alias}: {field.title}" for field in fields.values())
        raise TemplateError(f"The template has no field {', '.join(unknown)}; it has\n{known}")
    values = {alias: _checked(field, given.get(alias, field.default)) for alias, field in fields.items()}
    for alias, source in _PIXEL_SIZE_OF.items():
        if alias in values and source in values:
            values[alias] = _pixelSize(fields[alias], values[alias], values[source])
    empty = [field for field in fields.values() if not values[field.alias] and not field.isOptional]
    missing = [f"{field.alias} ({field.title})" for field in empty]
    if missing:
        raise TemplateError(f"Values are missing: {', '.join(missing)}. Give them as NAME=VALUE.")
    return _filled(template, values)


def templatePaths() -> List[str]:
    """Return the paths of the templates, in order."""
    return sorted(glob.glob(os.path.join(TEMPLATES, "*" + TEMPLATE_ENDING)))


def readTemplate(name: str) -> str:
    """Return the content of a template by its name, with or without the plugin's before it, or by its path.

    Raises
    ------
    TemplateError
        If there is no such template, or it cannot be read.
    """
    names = {os.path.basename(path)[: -len(TEMPLATE_ENDING)]: path for path in templatePaths()}
    path = names.get(name[len("cocofold-") :] if name.startswith("cocofold-") else name, name)
    if not os.path.isfile(path):
        known = ", ".join("cocofold-" + one for one in names)
        raise TemplateError(f"There is no template {name}; there are: {known}")
    try:
        with open(path, encoding="utf-8") as content:
            return content.read()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"The template {path} cannot be read: {error}. Give a text file that can.") from None


def workflowPath(template: str) -> str:
    """Return the path of the workflow that is made of a template."""
    return template[: -len(TEMPLATE_ENDING)] + WORKFLOW_ENDING


def _filled(template: str, values: Dict[str, str]) -> str:
    def text(found: re.Match[str]) -> str:
        value = values[found["alias"]]
        # Scipion's importer asks for keys of paths, also of empty ones
        return json.dumps(value) if found["quoted"] else value or "null"

    body = template[max(template.find("[\n"), 0) :].replace("%%", "%")
    try:
        protocols = json.loads(_FIELD.sub(text, body))
    except ValueError as error:
        raise TemplateError(f"The template is no list of protocols in JSON ({error}). {_FORM}") from None
    return json.dumps(_withoutNulls(protocols), indent=4, ensure_ascii=False) + "\n"


def _withoutNulls(protocols: Any) -> List[Dict[str, Any]]:
    """Return protocols without what is null, and without empty labels, for which Scipion's own then stand.

    Raises
    ------
    TemplateError
        If this is no list of protocols, or one has no class, no number, or a label that is no text.
    """
    if not isinstance(protocols, list) or not all(isinstance(one, dict) for one in protocols):
        raise TemplateError(f"The template is no list of protocols. {_FORM}")
    kept = [{name: value for name, value in one.items() if value is not None} for one in protocols]
    for place, one in enumerate(kept, start=1):
        for name in ("object.className", "object.id"):
            if not isinstance(one.get(name), str):
                raise TemplateError(f"Protocol {place} of the template has no text as {name}. {_FORM}")
        label = one.get("object.label", "")
        if not isinstance(label, str):
            raise TemplateError(f"Protocol {place} of the template has the label {label!r}; write a text, or none.")
        if not label.strip():
            one.pop("object.label", None)
    return kept


def _checked(field: Field, value: str) -> str:
    """Return the value of a field in the form of JSON; raise `TemplateError` if it is none of its type."""
    value = value.strip()
    if not value:
        return value
    if field.type in _PATHS:
        if not os.path.exists(value):
            raise TemplateError(f"{field.alias}={value}: there is no such file ({field.title}).")
        return os.path.abspath(value)
    if field.type in (_INTEGER, _NUMBER):
        try:
            number = int(value) if field.type == _INTEGER else float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise TemplateError(f"{field.alias}={value}: is no number ({field.title}).")
        return repr(number)
    return value


def _pixelSize(field: Field, value: str, path: str) -> str:
    """Return the pixel size that was given or else the file's; raise `TemplateError` if they contradict."""
    found = filePixelSize(path) if path else None
    if not value:
        return "" if found is None else repr(round(found, 5))
    if found is not None and contradict(float(value), found):
        raise TemplateError(
            f"{field.alias}={value}: {path} says {found:.5g} Å. Leave {field.alias} out to use the file's, or "
            "repair the file if that is wrong."
        )
    return value


def main() -> None:
    """Write the workflow of each template."""
    for path in templatePaths():
        with open(path, encoding="utf-8") as template, open(workflowPath(path), "w", encoding="utf-8") as workflow:
            workflow.write(workflowOf(template.read()))


if __name__ == "__main__":
    main()
