"""guard-paths: denies the tools on the operator's list, and paths outside of the operator's directories."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.configuration import Problem
from wit_world.exports.list_tools import Outcome
from wit_world.exports.manifest import Capability, Determinism, Hook, Info, Need, Payload
from wit_world.imports import log
from wit_world.imports.types import Denial, Permit, Reason, Rewrite_Keep, Verdict_Allow, Verdict_Deny, Visibility

# Set by `configure`. Every decision begins with what it left here, and with nothing else.
deny = []
roots = []


class Manifest(exports.Manifest):
    def describe(self):
        def strings(description):
            return {"type": "array", "items": {"type": "string"}, "description": description}

        schema = {
            "type": "object",
            "properties": {
                "deny": strings("Names of tools; * stands for any characters"),
                "roots": strings("Directories that the argument path may be in"),
            },
            "required": ["roots"],
            "additionalProperties": False,
        }
        return Info(
            name="guard-paths",
            version="0.1.0",
            title="Denies listed tools, and paths outside of listed directories",
            license="Apache-2.0",
            hooks=[Hook.LIST_TOOLS, Hook.TOOL_CALL],
            mutates=[],
            needs=[Need(Hook.TOOL_CALL, Payload.FULL, Payload.NONE, texts=False, claims=[], ext=[])],
            capabilities=Capability(0),
            determinism=Determinism.PURE,
            config_schema=json.dumps(schema),
            sample_config=json.dumps({"deny": ["delete_*"], "roots": ["/srv/"]}),
            min_host=None,
        )


class Configuration(exports.Configuration):
    def configure(self, config):
        global deny, roots
        given = json.loads(config)
        problems = []
        patterns = strings("/deny", given.get("deny", []), problems)
        directories = strings("/roots", given.get("roots"), problems)
        for index, directory in enumerate(directories):
            if not directory.startswith("/"):
                problems.append(Problem(f"/roots/{index}", "must begin with /"))
        if problems:
            raise Err(problems)
        deny = patterns
        roots = directories
        return []


def strings(path, entries, problems):
    """The strings of a list; whatever is none becomes a problem."""
    if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
        return entries
    problems.append(Problem(path, "must be a list of strings"))
    return []


class ListTools(exports.ListTools):
    def filter(self, context, tools):
        hidden = [pattern_over(tool.name) is not None for tool in tools]
        return Outcome([Visibility.HIDE if hide else Visibility.SHOW for hide in hidden], overrides=[])


class ToolCall(exports.ToolCall):
    def before(self, context, request):
        pattern = pattern_over(request.tool.name)
        if pattern is not None:
            return denial("guard.tool", "The operator does not let this tool be called.", pattern)
        arguments = json.loads(request.arguments or "{}")
        if "path" in arguments and not is_inside(arguments["path"]):
            log.write(log.Level.INFO, "denied a path outside of the allowed directories")
            return denial("guard.path", "This path is outside of the directories that the operator allows.")
        return Verdict_Allow(Permit(Rewrite_Keep(), inspect_result=False, timeout_ms=None, notes=[]))


def denial(code, message, rule=None):
    return Verdict_Deny(Denial(Reason(code, message, rule, detail=None), None, None, as_tool_error=True))


def pattern_over(name):
    """The first pattern on the list that matches the name."""
    return next((pattern for pattern in deny if matches(pattern, name)), None)


def matches(pattern, name):
    """Whether the whole name fits the pattern, in which `*` stands for any characters."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == first
    if not name.startswith(first):
        return False
    *middle, last = rest
    at = len(first)
    for piece in middle:
        found = name.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(name) - len(last) >= at and name.endswith(last)


def is_inside(path):
    """Whether the path is absolute, leads nowhere by `..`, and is one of the directories or within one."""
    if not isinstance(path, str) or not path.startswith("/") or ".." in path.split("/"):
        return False
    directories = [root.rstrip("/") for root in roots]
    return any(path == directory or path.startswith(directory + "/") for directory in directories)
