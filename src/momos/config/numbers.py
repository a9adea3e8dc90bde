"""Plain values of YAML 1.2, as DVC reads and writes them: 1e-05 is a number, 010 is ten.

PyYAML follows YAML 1.1, in which 1e-05 is text, 010 is eight and `on` is true.
"""

import re
from typing import Any  # what YAML holds

import yaml

# Of the core schema (YAML 1.2.2, Sec. 10.3.2), each with the characters that it may begin with.
# Both libraries also take 1_000 for a thousand.
PLAIN = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
)


# libyaml's parser, eight times as fast, where PyYAML was built with it
SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(SafeLoader):  # type: ignore[valid-type, misc] # whichever there is
    """Reads plain values as YAML 1.2 does, and no objects."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {
        "<": [("tag:yaml.org,2002:merge", re.compile("<<"))]
    }


class Dumper(yaml.SafeDumper):
    """Quotes the texts that `Loader` would read as something else."""

    yaml_implicit_resolvers = {
        first: list(known) for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def read_yaml(text: str) -> Any:
    """Return the value of a text. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=Loader)


def write_yaml(values: Any) -> str:
    """Return a text with the keys in their order, which `read_yaml` and DVC read alike."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text.replace("_", ""))


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _kind, _pattern, _first in PLAIN:
    for _class in (Loader, Dumper):
        _compiled = re.compile(f"^(?:{_pattern})$")
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _compiled, _first)
Loader.add_constructor("tag:yaml.org,2002:int", _integer)
Loader.add_constructor("tag:yaml.org,2002:float", _number)
