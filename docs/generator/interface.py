"""The Python interface for docs/reference.md: signatures and docstrings, as the code has them."""

import inspect
import re
from typing import Any

import tinyscene

Entry = dict[str, Any]


def python_entries() -> list[Entry]:
    """Each public name of `tinyscene`: its signature, its docstring and, of a class, its public members."""
    return [_entry(name, getattr(tinyscene, name)) for name in tinyscene.__all__]


def _entry(name: str, value: Any) -> Entry:
    if not inspect.isclass(value):
        call = value.__call__ if inspect.ismodule(value) else value  # tinyscene.train is a package, too
        return {"title": f"tinyscene.{name}", "call": _call(name, value), "doc": inspect.getdoc(call), "members": []}
    members = [
        {"call": _call(key, member), "doc": _first_paragraph(member)}
        for key, member in sorted(_public(value).items())
        if inspect.getdoc(member)
    ]
    shown = issubclass(value, Exception)
    call = name if shown else _call(name, value)
    return {"title": f"tinyscene.{name}", "call": call, "doc": inspect.getdoc(value), "members": members}


def _public(kind: type) -> dict[str, Any]:
    """The members of a class and of those of ours that it is derived from."""
    members: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("tinyscene"):
            members |= {key: member for key, member in vars(base).items() if not key.startswith("_")}
    return {key: getattr(member, "__func__", member) for key, member in members.items() if _is_documented(member)}


def _is_documented(member: Any) -> bool:
    return callable(member) or hasattr(member, "__func__") or hasattr(member, "fget") or hasattr(member, "func")


def _call(name: str, value: Any) -> str:
    """A signature with its defaults; types are told by the docstring and by the editor."""
    if not callable(value):  # a property
        return name
    signature = inspect.signature(value)
    kept = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for key, parameter in signature.parameters.items()
        if key not in ("self", "cls")
    ]
    shown = str(signature.replace(parameters=kept, return_annotation=inspect.Signature.empty))
    return name + re.sub(r"<function nullcontext[^>]*>|<class 'contextlib.nullcontext'>", "nullcontext", shown)


def _first_paragraph(member: Any) -> str:
    return " ".join((inspect.getdoc(member) or "").partition("\n\n")[0].split())
