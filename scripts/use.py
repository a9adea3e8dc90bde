"""`make use PROFILE=p`: puts profiles/p.yaml in place of params.yaml.   usage: use.py PROFILE
[--force]

dvc.lock knows one profile's results at a time: each profile's own is kept as profiles/p.lock and
swapped with it. Settings that were edited in params.yaml, and stand in no profile, are never
dropped without --force.
"""

import argparse
import shutil
import sys
from pathlib import Path

import yaml

PARAMS, LOCK, PROFILES = Path("params.yaml"), Path("dvc.lock"), Path("profiles")


def read(path: Path) -> dict:
    """Raises SystemExit naming a file that is no YAML mapping."""
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SystemExit(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise SystemExit(f"{path} must hold a mapping of sections, got {type(values).__name__}")
    return values


def differences(left: object, right: object, where: str = "") -> list[str]:
    """The settings that are not the same in both, as dotted keys."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = sorted({*left, *right}, key=str)
        return [
            found
            for key in keys
            for found in differences(left.get(key), right.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if left == right and type(left) is type(right) else [where]


def profile_file(name: str) -> Path:
    """Raises SystemExit for a profile that does not exist or calls itself otherwise."""
    path = PROFILES / f"{name}.yaml"
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in known:
        raise SystemExit(
            f"PROFILE must be one of {', '.join(known)} (a file profiles/PROFILE.yaml), got {name!r}"
        )
    if (inside := read(path).get("profile")) != name:
        raise SystemExit(f"{path}: profile must be {name!r}, the file's name, got {inside!r}")
    return path


def current_profile() -> str | None:
    """What params.yaml calls itself; None where there is no params.yaml."""
    if not PARAMS.exists():
        if LOCK.exists():
            raise SystemExit(
                "params.yaml is missing, so nobody knows which profile dvc.lock belongs to: `git checkout params.yaml` first"
            )
        return None
    name = read(PARAMS).get("profile")
    if not isinstance(name, str):
        raise SystemExit(f"params.yaml: profile must be a name, got {name!r}")
    return name


def check_nothing_is_lost(current: str) -> None:
    """Raises SystemExit if params.yaml holds settings that its profile's file does not."""
    kept = PROFILES / f"{current}.yaml"
    if not kept.exists():
        raise SystemExit(
            f"params.yaml is profile {current!r}, which no file holds: copy it to {kept} first, or drop it with FORCE=1"
        )
    if edited := differences(read(PARAMS), read(kept)):
        raise SystemExit(
            f"params.yaml has settings that are not in {kept}: {', '.join(edited)}. Put them there (or in a profile of their own) first,"
            " or drop them with FORCE=1"
        )


def use(name: str, force: bool) -> None:
    chosen, current = profile_file(name), current_profile()
    if current is not None and not force:
        check_nothing_is_lost(current)
    fresh = PARAMS.with_suffix(".new")
    shutil.copyfile(chosen, fresh)  # a full disk is met here
    if current != name:
        swap_locks(current, name)
    fresh.replace(PARAMS)


def swap_locks(current: str | None, name: str) -> None:
    """dvc.lock -> profiles/current.lock, profiles/name.lock -> dvc.lock."""
    if current is not None and LOCK.exists():
        LOCK.replace(PROFILES / f"{current}.lock")
    if (kept := PROFILES / f"{name}.lock").exists():
        kept.replace(LOCK)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Put profiles/PROFILE.yaml in place of params.yaml."
    )
    parser.add_argument("profile")
    parser.add_argument(
        "--force", action="store_true", help="drop settings that were edited in params.yaml"
    )
    arguments = parser.parse_args()
    use(arguments.profile, arguments.force)
    print(f"params.yaml is profiles/{arguments.profile}.yaml now; `make repro` runs it.")


if __name__ == "__main__":
    sys.exit(main())
