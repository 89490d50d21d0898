#!/usr/bin/env python3
"""The part of compare-templates.sh that renders conversations with both renderers. Needs jinja2."""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox

BOS, EOS = "<s>", "</s>"

# Known differences, by template.
ALLOWED = {
    # Adds plain text to text marked as `safe`, which Jinja then escapes for HTML: the model must not get `&#34;`.
    "meetkai-functionary-medium-v3.1.jinja",
}
TODAY = datetime.datetime(2024, 7, 26)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city, \"now\" & <here>",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Zürich"}, "days": {"type": "integer", "default": 1}},
                "required": ["city"],
            },
        },
    }
]
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern", "days": 2}}}
CONVERSATIONS = [
    {"messages": [{"role": "user", "content": "Hello,  world\n"}, {"role": "assistant", "content": " Good day! "}]},
    {
        "messages": [
            {"role": "system", "content": "You are <b>terse</b>."},
            {"role": "user", "content": "1 & 2?"},
            {"role": "assistant", "content": "<think>\nadd\n</think>\n\n3"},
            {"role": "user", "content": "And 'é' \"😀\"?"},
            {"role": "assistant", "content": "Letters."},
        ]
    },
    {"messages": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "Where?"}], "tools": TOOLS},
    {
        "messages": [
            {"role": "user", "content": "Weather in Bern?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": '{"sky": "grey"}'},
            {"role": "assistant", "content": "Grey."},
        ],
        "tools": TOOLS,
    },
]


class Generation(jinja2.ext.Extension):
    """`{% generation %}`, which leaves what is in it as it is."""

    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(lineno)

    def _render(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    """As Hugging Face's transformers sets it up."""
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = TODAY.strftime
    return env


def by_python(source):
    template = environment().from_string(source)
    texts = []
    for line in CONVERSATIONS:
        try:
            texts.append(
                template.render(
                    messages=line["messages"],
                    tools=line.get("tools"),
                    documents=None,
                    add_generation_prompt=False,
                    bos_token=BOS,
                    eos_token=EOS,
                )
            )
        except Exception:  # whatever a template does wrong
            texts.append(None)
    return texts


def by_us(program, template, folder):
    lines = Path(folder) / "lines.jsonl"
    lines.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in CONVERSATIONS))
    ran = subprocess.run([program, template, lines, BOS, EOS], capture_output=True, text=True)
    if ran.returncode != 0:
        return None, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("templates", nargs="+")
    args = parser.parse_args()
    different, rendered, lenient = 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for template in args.templates:
            try:
                wanted = by_python(Path(template).read_text())
            except jinja2.exceptions.TemplateError as error:
                print(f"{Path(template).name}: no template for Jinja: {error}")
                continue
            found, log = by_us(args.program, template, folder)
            for i, text in enumerate(wanted):
                other = found[i] if found else None
                rendered += text is not None
                if text is None:
                    lenient += other is not None  # such as a loop over tools that are none
                elif text != other and Path(template).name not in ALLOWED:
                    different += 1
                    print(f"{Path(template).name}: conversation {i + 1} differs: {text!r} and {other!r}; {log.strip()}"[:2000])
    print(
        f"{len(args.templates)} templates, {rendered} conversations that Python renders, {different} differ; "
        f"{lenient} that only we render"
    )
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
