"""Chat templates by name: those shipped here, or a .jinja file of the user's."""

from __future__ import annotations

from pathlib import Path

from posttrain.errors import InputError, Problem

FOLDER = Path(__file__).parent / "templates"
PLAIN = "plain"


def shipped_templates() -> tuple[str, ...]:
    """Names of the templates in this package, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))


def read_template(name_or_path: str) -> str:
    """Jinja source of a shipped template or of a .jinja file. Raises InputError."""
    if name_or_path in shipped_templates():
        return (FOLDER / f"{name_or_path}.jinja").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix in (".jinja", ".j2") and path.is_file():
        return path.read_text(encoding="utf-8")
    raise InputError(
        Problem(
            "no-chat-template",
            f"no chat template `{name_or_path}`",
            help=f"shipped: {', '.join(shipped_templates())}; or a path to a .jinja file",
        )
    )
