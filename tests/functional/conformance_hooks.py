"""What schemathesis leaves out: it imports this module, and says by it what no JSON Schema can say."""

from __future__ import annotations

from typing import Any

import schemathesis

# To a schema a table is any text; tests/functional/test_tables.py and test_batch.py send good and bad ones.
TABLES = ("text/csv", "application/jsonl")
# Of a form's file, it is the model or the table that counts: a random one is not acceptable, whatever its form.
FORMS = ("multipart/form-data",)


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Send JSON only where there is JSON, and no ids: that there are as many as instances is no rule of JSON Schema."""
    for path in raw_schema["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            for kind in (*TABLES, *FORMS) if "application/json" in content else ():
                content.pop(kind, None)
            for form in content.get("application/json", {}).get("schema", {}).get("anyOf", ()):
                form.get("properties", {}).pop("ids", None)
            for example in content.get("application/json", {}).get("examples", {}).values():
                example["value"].pop("ids", None)
