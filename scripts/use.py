"""`make use PROFILE=p`: write params.yaml from profiles/p.yaml.

usage: use.py PROFILE [--force]

A profile says what it has otherwise than profiles/base.yaml. params.yaml holds all settings, with
the comments of both. dvc.lock knows the results of one profile at a time: each profile's own is
kept as profiles/p.lock and swapped with it. Settings that were edited in params.yaml, and stand in
no profile, are never dropped without --force.
"""

import argparse
from pathlib import Path

from momos.config import overlays

PARAMS, LOCK, PROFILES = Path("params.yaml"), Path("dvc.lock"), Path("profiles")


def read_settings(path: Path) -> dict:
    """All settings of a file. Raises SystemExit naming what is wrong with it."""
    try:
        return overlays.read_settings(path)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def differences(left: object, right: object, where: str = "") -> list[str]:
    """The settings that are not the same in both, as dotted keys."""
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            different
            for key in sorted({*left, *right}, key=str)
            for different in differences(
                left.get(key), right.get(key), f"{where}.{key}".lstrip(".")
            )
        ]
    return [] if left == right and type(left) is type(right) else [where]


def profile_file(name: str) -> Path:
    """The profile's own file. Raises SystemExit if there is none, or if it has another name."""
    path = PROFILES / f"{name}.yaml"
    known = sorted({path.stem for path in PROFILES.glob("*.yaml")} - {overlays.BASE})
    if name not in known:
        raise SystemExit(
            f"PROFILE must be one of {', '.join(known)} (a file profiles/PROFILE.yaml),"
            f" got {name!r}"
        )
    if (inside := read_settings(path).get("profile")) != name:
        raise SystemExit(f"{path}: profile must be {name!r}, the file's name, got {inside!r}")
    return path


def current_profile() -> str | None:
    """What params.yaml calls itself; None where there is no params.yaml."""
    if not PARAMS.exists():
        if LOCK.exists():
            raise SystemExit(
                "params.yaml is missing, so nobody knows which profile dvc.lock belongs to:"
                " `git checkout params.yaml` first"
            )
        return None
    name = read_settings(PARAMS).get("profile")
    if not isinstance(name, str):
        raise SystemExit(f"params.yaml: profile must be a name, got {name!r}")
    return name


def check_nothing_is_lost(current: str) -> None:
    """Raises SystemExit if params.yaml holds settings that its profile does not."""
    kept = PROFILES / f"{current}.yaml"
    if not kept.exists():
        raise SystemExit(
            f"params.yaml is profile {current!r}, which no file holds: copy it to {kept} first,"
            " or drop it with FORCE=1"
        )
    if edited := differences(read_settings(PARAMS), read_settings(kept)):
        raise SystemExit(
            f"params.yaml has settings that are not in {kept}: {', '.join(edited)}. Put them there"
            " (or in a profile of their own) first, or drop them with FORCE=1"
        )


def use(name: str, force: bool) -> None:
    """Write params.yaml and swap dvc.lock. Raises SystemExit before anything is changed."""
    chosen, current = profile_file(name), current_profile()
    if current is not None and not force:
        check_nothing_is_lost(current)
    fresh = PARAMS.with_suffix(".new")
    # A full disk is met here, before anything is changed.
    fresh.write_text(overlays.complete_text(chosen), encoding="utf-8")
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
    parser = argparse.ArgumentParser(description="Write params.yaml from profiles/PROFILE.yaml.")
    parser.add_argument("profile")
    forced = "drop settings that were edited in params.yaml"
    parser.add_argument("--force", action="store_true", help=forced)
    arguments = parser.parse_args()
    use(arguments.profile, arguments.force)
    print(f"params.yaml is profile {arguments.profile} now; `make repro` runs it.")


if __name__ == "__main__":
    main()
