"""What a JSON value lacks of a schema, for the keywords that the plugin's own schema uses."""

from __future__ import annotations

import json
from typing import Any

from scipion_cocofold.verdict import SCHEMA

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
# Keywords that are only read by people
SAID = {"$schema", "title", "description"}


def is_of(value: Any, name: str) -> bool:
    if name in ("number", "integer"):
        return isinstance(value, int if name == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def complaints(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """Sentences on what a value lacks of a schema; none if it agrees."""
    found: list[str] = []
    for keyword, wanted in schema.items():
        if keyword == "type":
            names = [wanted] if isinstance(wanted, str) else wanted
            found += [] if any(is_of(value, name) for name in names) else [f"{at}: {value!r} is no {wanted}"]
        elif keyword == "enum":
            found += [] if value in wanted else [f"{at}: {value!r} is none of {wanted}"]
        elif keyword == "const":
            found += [] if value == wanted else [f"{at}: {value!r} is not {wanted!r}"]
        elif keyword == "minimum":
            found += [f"{at}: {value} is below {wanted}"] if is_of(value, "number") and value < wanted else []
        elif keyword == "required":
            found += [f"{at}: {name} is missing" for name in wanted if isinstance(value, dict) and name not in value]
        elif keyword == "properties":
            for name in wanted if isinstance(value, dict) else ():
                found += complaints(value[name], wanted[name], f"{at}.{name}") if name in value else []
        elif keyword == "additionalProperties":
            for name in set(value) - set(schema.get("properties", {})) if isinstance(value, dict) else ():
                found += complaints(value[name], wanted, f"{at}.{name}")
        elif keyword == "items":
            for row, one in enumerate(value if isinstance(value, list) else ()):
                found += complaints(one, wanted, f"{at}[{row}]")
        elif keyword == "if":
            found += complaints(value, schema["else" if complaints(value, wanted) else "then"], at)
        else:
            assert keyword in SAID | {"then", "else"}, keyword
    return found


def complaints_of_verdict(value: Any) -> list[str]:
    """What a verdict lacks of the schema that comes with the plugin."""
    with open(SCHEMA, encoding="utf-8") as content:
        return complaints(value, json.load(content))
