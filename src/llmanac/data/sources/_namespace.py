"""Which names a module offers, and where each is defined; run as a program of its own, by this Python.

    python -I _namespace.py < modules.json > names.json

The standard library puts names together as it is imported (`random.randint` is a method of a hidden `Random`,
`hashlib.sha256` is looked up, `os.path` is `posixpath`), so no reading of its files finds them all. It is imported
here, in a process that ends: whatever an import does, the caller is left as it was. Nothing but the standard library is
imported: third-party code never runs.
"""

import importlib
import inspect
import json
import os
import re
import sys
import types
import warnings

FIELDS = ("name", "module", "qualname", "signature", "kind", "documented", "relative", "doc")


def main():
    modules = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # a module that speaks when it is imported is not heard
        os.dup2(silence, stream)
    warnings.simplefilter("ignore")
    rows = []
    for name in modules:
        try:
            module = importlib.import_module(name)
        except BaseException:  # another platform's, or one that leaves
            continue
        rows += offered(name, module)
    json.dump([dict(zip(FIELDS, row, strict=True)) for row in rows], out)
    out.flush()
    os._exit(0)  # what an import started does not hold the process


def offered(name, module):
    """A row of FIELDS for every function and class that a module offers, and for what they have from their bases."""
    listed = getattr(module, "__all__", None)
    for key in sorted(set(listed) if listed else vars(module)):
        value = vars(module).get(key)
        if not isinstance(key, str) or key.startswith("_") or isinstance(value, types.ModuleType):
            continue
        home = home_of(value)
        if home is None or (not listed and home[0].strip("_") != name.strip("_") and home[0] != "builtins"):
            continue  # imported for the module's own use
        yield row(prefixed(name, key), home, value)
        if inspect.isclass(value):
            yield from members(prefixed(name, key), value)


def prefixed(module, key):
    return key if module == "builtins" else f"{module}.{key}"


def members(name, owner):
    for key in sorted(set(dir(owner)) - set(dir(object))):
        if not key.startswith("_") and (found := defined(owner, key)):
            base, value = found
            if callable(unwrapped(value)) or inspect.isdatadescriptor(value):
                yield row(f"{name}.{key}", (base.__module__, f"{base.__qualname__}.{key}"), value, owner=owner)


def defined(owner, key):
    """The class of an owner's bases that defines a member, and the member as it is there."""
    for base in inspect.getmro(owner) if inspect.isclass(owner) else ():
        if key in vars(base):
            return base, vars(base)[key]
    return None


def unwrapped(value):
    if isinstance(value, (staticmethod, classmethod, types.MethodType)):
        return value.__func__
    return value.fget or value if isinstance(value, property) else value


def home_of(value):
    """`(module, qualified name)` of where a function or class is defined; None for anything else."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return None
    bound = None if inspect.isclass(value) else getattr(value, "__self__", None)
    if bound is not None and not isinstance(bound, types.ModuleType):
        found = defined(bound if inspect.isclass(bound) else type(bound), getattr(value, "__name__", ""))
        return (found[0].__module__, f"{found[0].__qualname__}.{value.__name__}") if found else None
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return (module, qualname) if isinstance(module, str) and isinstance(qualname, str) else None


def row(name, home, value, owner=None):
    plain = unwrapped(value)
    kind = (
        "class"
        if inspect.isclass(value)
        else "function"
        if callable(plain) and not isinstance(value, property)
        else "attribute"
    )
    doc = plain.__doc__ if owner is None and documented(value) else ""  # of members, their home is enough
    near = relative(value, name.rpartition(".")[2], owner)
    return (name, *home, signature(value, kind), kind, documented(value), near, doc)


def documented(value):
    doc = getattr(unwrapped(value), "__doc__", None)
    return isinstance(doc, str) and bool(doc.strip())


def signature(value, kind):
    if kind == "attribute":
        return ""
    try:
        found = inspect.signature(unwrapped(value))
    except Exception:  # a default that cannot be read back
        return ""
    parameters = list(found.parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    return re.sub(r"=<[^<>]*>", "=...", " ".join(str(found.replace(parameters=parameters)).split()))


def relative(value, key, owner):
    """The nearest documented relative of what has no docstring: of a method the same method of a base, else the class;
    of a class its first documented base."""
    if documented(value):
        return ""
    for base in inspect.getmro(owner or value)[1:] if inspect.isclass(owner or value) else ():
        member = vars(base).get(key) if owner else base
        if base is not object and member is not None and documented(member):
            return ".".join(filter(None, (base.__module__, base.__qualname__, key if owner else "")))
    return f"{owner.__module__}.{owner.__qualname__}" if owner and documented(owner) else ""


if __name__ == "__main__":
    main()
