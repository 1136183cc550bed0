"""Ordinary workflows from the templates: ``python -m scipion_cocofold.workflows`` writes them beside the templates.

Scipion's *Import workflow* reads plain JSON. A template has fields in it, for which only ``scipion template`` asks.
"""

import glob
import json
import os
import re

TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")
TEMPLATE_ENDING, WORKFLOW_ENDING = ".json.template", ".json"
# A field of a template, as in ~Title|default|type|alias~; quotes around it belong to a text
_FIELD = re.compile(r'"~[^|~]*\|(?P<text>[^|~]*)\|[^~]*~"|~[^|~]*\|(?P<number>[^|~]*)\|[^~]*~')


def workflowOf(template):
    """Return the workflow of a template as JSON text: fields have their defaults, numbers without one are left out.

    Parameters
    ----------
    template : str
        Content of a template's file: lines that describe it, then a list of protocols.
    """
    body = template[template.index("[\n") :].replace("%%", "%")
    protocols = json.loads(_FIELD.sub(_default, body))
    kept = [{name: value for name, value in one.items() if value is not None} for one in protocols]
    return json.dumps(kept, indent=4, ensure_ascii=False) + "\n"


def _default(field):
    # Scipion's importer asks for keys of paths, also of empty ones
    if field["text"] is not None:
        return json.dumps(field["text"])
    return field["number"] or "null"


def templatePaths():
    """Return the paths of the templates, in order."""
    return sorted(glob.glob(os.path.join(TEMPLATES, "*" + TEMPLATE_ENDING)))


def workflowPath(template):
    """Return the path of the workflow that is made of a template."""
    return template[: -len(TEMPLATE_ENDING)] + WORKFLOW_ENDING


def main():
    """Write the workflow of each template."""
    for path in templatePaths():
        with open(path, encoding="utf-8") as template, open(workflowPath(path), "w", encoding="utf-8") as workflow:
            workflow.write(workflowOf(template.read()))


if __name__ == "__main__":
    main()
