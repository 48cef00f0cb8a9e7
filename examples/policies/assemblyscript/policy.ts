// guard-paths: denies the tools on the operator's list, and paths outside of the operator's directories.

import { ERR, INFO, OK, give, giveResult, log, taken } from './abi';
import { Value } from './json';
export { cabi_realloc } from './abi';

// Set by `configure`. Every decision begins with what it left here, and with nothing else.
let deny: Value[] = [];
let roots: string[] = [];

const MANIFEST = `{
  "name": "guard-paths",
  "version": "0.1.0",
  "title": "Denies listed tools, and paths outside of listed directories",
  "license": "Apache-2.0",
  "hooks": ["list-tools", "tool-call"],
  "needs": [{"hook": "tool-call", "arguments": "full", "output": "none", "texts": false}],
  "capabilities": [],
  "determinism": "pure",
  "config_schema": {
    "type": "object",
    "properties": {
      "deny": {"type": "array", "items": {"type": "string"}, "description": "Names of tools; * stands for any characters"},
      "roots": {"type": "array", "items": {"type": "string"}, "description": "Directories that the argument path may be in"}
    },
    "required": ["roots"],
    "additionalProperties": false
  },
  "sample_config": {"deny": ["delete_*"], "roots": ["/srv/"]}
}`;

export function describe(): usize {
  return give(MANIFEST);
}

export function configure(text: usize, length: usize): usize {
  const config = new Value(taken(text, length));
  const problems = new Array<string>();

  const patterns = config.member('deny');
  deny = patterns ? listOf('/deny', patterns, problems) : [];

  const directories = config.member('roots');
  if (!directories) problems.push(problem('/roots', 'must be a list of strings'));
  const listed: Value[] = directories ? listOf('/roots', directories, problems) : [];
  roots = [];
  for (let i = 0; i < listed.length; i++) {
    const directory = listed[i].asString();
    if (!directory.startsWith('/')) problems.push(problem(`/roots/${i}`, 'must begin with /'));
    roots.push(directory);
  }
  return problems.length > 0 ? giveResult(ERR, `[${problems.join(',')}]`) : giveResult(OK, '[]');
}

/** The strings of a list; whatever is none becomes a problem. */
function listOf(path: string, value: Value, problems: string[]): Value[] {
  if (value.isList) {
    const entries = value.elements();
    let allStrings = true;
    for (let i = 0; i < entries.length; i++) allStrings = allStrings && entries[i].isString;
    if (allStrings) return entries;
  }
  problems.push(problem(path, 'must be a list of strings'));
  return [];
}

function problem(path: string, message: string): string {
  return `{"path":"${path}","message":"${message}"}`;
}

export function decide(hookText: usize, hookLength: usize, inputText: usize, inputLength: usize): usize {
  const hook = taken(hookText, hookLength);
  const input = new Value(taken(inputText, inputLength));
  if (hook == 'list-tools') return giveResult(OK, listTools(input));
  if (hook == 'tool-call') return giveResult(OK, toolCall(input));
  return giveResult(ERR, 'guard-paths has no such hook');
}

function listTools(input: Value): string {
  const tools = input.member('tools')!.elements();
  const visible = new Array<string>();
  for (let i = 0; i < tools.length; i++) visible.push(patternOver(tools[i]) ? '"hide"' : '"show"');
  return `{"visible":[${visible.join(',')}]}`;
}

function toolCall(input: Value): string {
  const request = input.member('request')!;
  const pattern = patternOver(request.member('tool')!);
  if (pattern) {
    return denial(
      `"code":"guard.tool","message":"The operator does not let this tool be called.","rule":${pattern.source}`,
    );
  }
  const given = request.member('arguments');
  const path = given ? given.member('path') : null;
  if (path && !isInside(path)) {
    log(INFO, 'denied a path outside of the allowed directories');
    return denial('"code":"guard.path","message":"This path is outside of the directories that the operator allows."');
  }
  return '{"allow":{}}';
}

function denial(reason: string): string {
  return `{"deny":{"reason":{${reason}}}}`;
}

/** The first pattern on the list that matches the tool's name. */
function patternOver(tool: Value): Value | null {
  const name = tool.member('name')!.asString();
  for (let i = 0; i < deny.length; i++) {
    if (matches(deny[i].asString(), name)) return deny[i];
  }
  return null;
}

/** Whether the whole name fits the pattern, in which `*` stands for any characters. */
function matches(pattern: string, name: string): bool {
  const pieces = pattern.split('*');
  const first = pieces[0];
  const last = pieces[pieces.length - 1];
  if (pieces.length == 1) return name == first;
  if (!name.startsWith(first)) return false;
  let at = first.length;
  for (let i = 1; i < pieces.length - 1; i++) {
    const found = name.indexOf(pieces[i], at);
    if (found < 0) return false;
    at = found + pieces[i].length;
  }
  return name.length - last.length >= at && name.endsWith(last);
}

/** Whether the value is an absolute path that leads nowhere by `..`, and is one of the directories or within one. */
function isInside(value: Value): bool {
  if (!value.isString) return false;
  const path = value.asString();
  if (!path.startsWith('/') || path.split('/').includes('..')) return false;
  for (let i = 0; i < roots.length; i++) {
    const directory = withoutSlashes(roots[i]);
    if (path == directory || path.startsWith(directory + '/')) return true;
  }
  return false;
}

function withoutSlashes(directory: string): string {
  let end = directory.length;
  while (end > 0 && directory.charAt(end - 1) == '/') end--;
  return directory.substring(0, end);
}
