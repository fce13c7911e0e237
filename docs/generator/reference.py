"""docs/reference.md: every command with its options, every recipe, every recipe key, as the code defines them."""

import json
from typing import Any

import typer

from docs.generator.interface import python_entries
from docs.generator.results import read_results
from docs.generator.templates import render
from tinyscene.cli import app
from tinyscene.train.recipe import Recipe
from tinyscene.train.recipe_list import list_recipes

Schema = dict[str, Any]
TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
BOUNDS = {"minimum": "≥ ", "exclusiveMinimum": "> ", "maximum": "≤ ", "exclusiveMaximum": "< "}


def reference_page() -> str:
    """The text of docs/reference.md."""
    schema = Recipe.model_json_schema()
    filters = {"cell": cell}
    costs = read_results()["recipe_costs"]["recipes"]
    values = {"panels": panels(), "recipes": list_recipes(), "costs": costs, "sections": sections(schema)}
    return render("reference.md.j2", filters, **values, python=python_entries())


def cell(text: str) -> str:
    """Text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def panels() -> dict[str, list[Schema]]:
    """The commands by the panel of `tinyscene --help` that they stand in."""
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    by_panel: dict[str, list[Schema]] = {}
    for name, command in commands.items():
        panel = command.rich_help_panel
        parameters = [_parameter(parameter) for parameter in command.params]
        entry = {"name": name, "help": (command.help or "").strip(), "parameters": parameters}
        by_panel.setdefault(panel if isinstance(panel, str) else "Commands", []).append(entry)
    return by_panel


def _parameter(parameter: Any) -> Schema:
    """An argument or option: its name as typed, its default and what it is for."""
    is_option = parameter.opts[0].startswith("-")
    name = ", ".join(parameter.opts) if is_option else parameter.name.upper()
    if parameter.required:
        default = "required"
    elif parameter.default is None or parameter.default is False:
        default = ""
    else:
        default = f"`{parameter.default}`"
    several = " (several are allowed)" if parameter.multiple or parameter.nargs == -1 else ""
    return {"name": name, "default": default, "help": (parameter.help or "") + several}


def sections(schema: Schema) -> list[Schema]:
    """The sections of a recipe, each with its keys; the section `model` once for each family of networks."""
    definitions, result = schema["$defs"], []
    top: Schema = {"title": "Top level", "prefix": "", "help": schema.get("description", ""), "keys": []}
    for name, field in schema["properties"].items():
        if "oneOf" in field:
            for reference in field["oneOf"]:
                definition = _resolve(reference, definitions)
                family = definition["properties"]["family"].get("const")  # none of families that packages register
                title = f"`{name}`, family `{family}`" if family else f"`{name}`, family of another package"
                result.append(_section(title, f"{name}.", definition, definitions))
        elif "$ref" in field:
            result.append(_section(f"`{name}`", f"{name}.", _resolve(field, definitions), definitions))
        else:
            top["keys"].append(_key(name, field, definitions))
    return [top, *result]


def _section(title: str, prefix: str, definition: Schema, definitions: Schema) -> Schema:
    keys = []
    for name, field in definition["properties"].items():
        keys.append(_key(prefix + name, field, definitions))
        for choice in field.get("anyOf", []):
            if "$ref" in choice:
                nested = _section("", f"{prefix}{name}.", _resolve(choice, definitions), definitions)
                keys += nested["keys"]
    return {"title": title, "prefix": prefix, "help": definition.get("description", ""), "keys": keys}


def _key(name: str, field: Schema, definitions: Schema) -> Schema:
    default = f"`{json.dumps(field['default'])}`" if "default" in field else "required"
    kind = type_name(field, definitions)
    return {"name": name, "type": kind, "default": default, "help": field.get("description", "")}


def type_name(field: Schema, definitions: Schema) -> str:
    """The type of a key in words, with its bounds."""
    if "$ref" in field:
        return "mapping"
    if "anyOf" in field:
        return " or ".join(type_name(choice, definitions) for choice in field["anyOf"])
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        items = field["prefixItems"][0] if "prefixItems" in field else field["items"]
        count = f"{len(field['prefixItems'])} times " if "prefixItems" in field else ""
        return f"list of {count}{type_name(items, definitions)}"
    if field["type"] == "object":
        return f"mapping to {type_name(field['additionalProperties'], definitions)}"
    bounds = ", ".join(f"{sign}{field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field)
    return f"{TYPES[field['type']]} {bounds}".strip()


def _resolve(field: Schema, definitions: Schema) -> Schema:
    return definitions[field["$ref"].rpartition("/")[2]]
