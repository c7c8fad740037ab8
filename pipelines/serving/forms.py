"""HTML of the forms of a task on the page of ``serve``."""

from __future__ import annotations

from html import escape
from typing import get_type_hints

from pipelines.serving.messages import MAX_CHARACTERS, MAX_TEXTS
from pipelines.tasks.endpoint import Field
from pipelines.tasks.task import Task


def section(task: Task) -> str:
    """Return the section of the page for a task."""
    endpoint = task.endpoint
    types = get_type_hints(endpoint.request)
    inputs = [_input(name, field, types[name]) for name, field in endpoint.fields.items()]
    return "\n".join(
        [
            f'<section id="{task.name}" data-title="{escape(endpoint.title)}" hidden>',
            f"  <p>{escape(endpoint.text)}</p>",
            "  <form>",
            *(f"    {line}" for line in inputs),
            f'    <div class="row"><button>{escape(endpoint.button)}</button></div>',
            "  </form>",
            "</section>",
        ]
    )


def _input(name: str, field: Field, kind: object) -> str:
    is_list = kind == list[str]
    length = MAX_CHARACTERS * (MAX_TEXTS if is_list else 1)
    need = "required" if is_list or kind is str else "data-optional"
    attributes = f'name="{name}" maxlength="{length}" {need}' + " data-lines" * is_list
    value = escape(field.value)
    if field.rows == 1:
        element = f'<input {attributes} value="{value}">'
    else:
        element = f'<textarea rows="{field.rows}" {attributes}>{value}</textarea>'
    hint = f' <span class="muted">{escape(field.hint)}</span>' if field.hint else ""
    return f"<label>{escape(field.label)}{hint} {element}</label>"
