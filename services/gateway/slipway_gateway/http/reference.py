"""The API reference as one page, made from the OpenAPI document: no script, and nothing from other servers."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any, Final

SECURITY_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1b1f24 }
code, pre { font: 13px/1.5 ui-monospace, monospace }
pre { background: #f4f5f7; padding: .75rem; overflow: auto }
summary { cursor: pointer; padding: .3rem 0 }
details { border-bottom: 1px solid #e3e6ea }
.method { display: inline-block; width: 4.5rem; font-weight: 600 }
table { border-collapse: collapse } td { padding: .2rem .8rem .2rem 0; vertical-align: top }
"""


def render(document: Mapping[str, Any]) -> str:
    """The page."""
    info = document["info"]
    areas: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            area = operation.get("tags", ["other"])[0]
            areas.setdefault(area, []).append(_operation(method.upper(), path, operation))
    sections = "".join(f"<h2>{escape(area)}</h2>{''.join(items)}" for area, items in areas.items())
    schemas = "".join(
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{_code(schema)}</details>'
        for name, schema in sorted(document["components"]["schemas"].items())
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(info['title'])} API {escape(info['version'])}</h1>"
        f'<p>{escape(info.get("summary", ""))} The same as a document: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{sections}<h2>Schemas</h2>{schemas}</body></html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = "".join(
        f"<tr><td><code>{escape(item['name'])}</code></td><td>{escape(item['in'])}</td>"
        f"<td>{escape(item.get('description', ''))}</td></tr>"
        for item in operation.get("parameters", ())
    )
    body = operation.get("requestBody", {})
    bodies = "".join(
        f"<p>Body: <code>{escape(kind)}</code> {_schema(media.get('schema', {}))}</p>"
        for kind, media in body.get("content", {}).items()
    )
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(answer.get('description', ''))} {_answer(answer)}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    return (
        f'<details><summary><span class="method">{method}</span><code>{escape(path)}</code> '
        f"{escape(operation.get('summary', ''))}</summary><p>{escape(operation.get('description', ''))}</p>"
        f"<table>{parameters}</table>{bodies}<table>{answers}</table></details>"
    )


def _answer(answer: Mapping[str, Any]) -> str:
    return " ".join(_schema(media.get("schema", {})) for media in answer.get("content", {}).values())


def _schema(schema: Mapping[str, Any]) -> str:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name:
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    return _code(schema) if "properties" in schema else ""


def _code(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
