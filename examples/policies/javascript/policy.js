// guard-paths: denies the tools on the operator's list, and paths outside of the operator's directories.

import { write as log } from 'portcullis:policy/log@0.1.0';

// Set by `configure`. Every decision begins with what it left here, and with nothing else.
let deny = [];
let roots = [];

export const manifest = {
  describe: () => ({
    name: 'guard-paths',
    version: '0.1.0',
    title: 'Denies listed tools, and paths outside of listed directories',
    license: 'Apache-2.0',
    hooks: ['list-tools', 'tool-call'],
    mutates: [],
    needs: [{ hook: 'tool-call', arguments: 'full', output: 'none', texts: false, claims: [], ext: [] }],
    capabilities: {},
    determinism: 'pure',
    configSchema: JSON.stringify({
      type: 'object',
      properties: {
        deny: { type: 'array', items: { type: 'string' }, description: 'Names of tools; * stands for any characters' },
        roots: { type: 'array', items: { type: 'string' }, description: 'Directories that the argument path may be in' },
      },
      required: ['roots'],
      additionalProperties: false,
    }),
    sampleConfig: JSON.stringify({ deny: ['delete_*'], roots: ['/srv/'] }),
  }),
};

export const configuration = {
  configure(text) {
    const config = JSON.parse(text);
    const problems = [];
    const patterns = strings('/deny', config.deny ?? [], problems);
    const directories = strings('/roots', config.roots, problems);
    directories.forEach((directory, index) => {
      if (!directory.startsWith('/')) problems.push({ path: `/roots/${index}`, message: 'must begin with /' });
    });
    if (problems.length > 0) throw problems; // what is thrown is the `err` of the result
    deny = patterns;
    roots = directories;
    return [];
  },
};

/** The strings of a list; whatever is none becomes a problem. */
function strings(path, list, problems) {
  if (Array.isArray(list) && list.every((entry) => typeof entry === 'string')) return list;
  problems.push({ path, message: 'must be a list of strings' });
  return [];
}

export const listTools = {
  filter: (context, tools) => ({
    visible: tools.map((tool) => (patternOver(tool.name) === undefined ? 'show' : 'hide')),
    overrides: [],
  }),
};

export const toolCall = {
  before(context, request) {
    const pattern = patternOver(request.tool.name);
    if (pattern !== undefined) {
      return denial({ code: 'guard.tool', message: 'The operator does not let this tool be called.', rule: pattern });
    }
    const { path } = JSON.parse(request.arguments ?? '{}');
    if (path !== undefined && !isInside(path)) {
      log('info', 'denied a path outside of the allowed directories');
      return denial({ code: 'guard.path', message: 'This path is outside of the directories that the operator allows.' });
    }
    return { tag: 'allow', val: { rewrite: { tag: 'keep' }, inspectResult: false, notes: [] } };
  },
};

function denial(reason) {
  return { tag: 'deny', val: { reason, asToolError: true } };
}

/** The first pattern on the list that matches the name. */
function patternOver(name) {
  return deny.find((pattern) => matches(pattern, name));
}

/** Whether the whole name fits the pattern, in which `*` stands for any characters. */
function matches(pattern, name) {
  const pieces = pattern.split('*');
  const first = pieces.shift();
  const last = pieces.pop();
  if (last === undefined) return name === first;
  if (!name.startsWith(first)) return false;
  let at = first.length;
  for (const piece of pieces) {
    const found = name.indexOf(piece, at);
    if (found < 0) return false;
    at = found + piece.length;
  }
  return name.length - last.length >= at && name.endsWith(last);
}

/** Whether the path is absolute, leads nowhere by `..`, and is one of the directories or within one. */
function isInside(path) {
  if (typeof path !== 'string' || !path.startsWith('/') || path.split('/').includes('..')) return false;
  return roots.some((root) => {
    const directory = root.replace(/\/+$/, '');
    return path === directory || path.startsWith(`${directory}/`);
  });
}
