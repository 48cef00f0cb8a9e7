// The pages of the console, as its own tables in host/src/http/console have them: a page that is added there is one that the
// suite has to open, or it fails.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

import { root } from './lib.mjs';

const SOURCES = path.join(root, 'host/src/http/console');
const TABLE = /const (?:PAGES|DOORS): &\[Route<[^=]*>\] =\s*&\[([^]*?)\];/g;
const ROW = /\b(opens|own|shows|asks|does)\(\s*(?:"(GET|POST)",\s*)?("[^"]*"|[\w:]+),\s*\|\|/g;
/** Rows whose function has the method in its name. */
const METHODS = { shows: 'GET', asks: 'GET', does: 'POST' };

/** Rows that lead to no page of ours, and why. */
const NO_PAGES = {
  '/assets/{file}': 'a file, which pages load',
  '/settings/store/backup': 'a file, which a browser keeps',
  '/sign-in/{provider}': 'leads to a provider: see browser-provider.mjs',
  '/sign-in/{provider}/callback': 'leads back from one: see browser-provider.mjs',
};

/** What is shown: `{ path, asks }`, where `asks` holds of a form before something is done. */
export function readRows() {
  const files = readdirSync(SOURCES, { recursive: true })
    .filter((file) => file.endsWith('.rs') && path.basename(file) !== 'tests.rs');
  const rows = files.flatMap((file) => {
    const text = readFileSync(path.join(SOURCES, file), 'utf8');
    return [...text.matchAll(TABLE)].flatMap(([, table]) => rowsOf(table, path.join(SOURCES, file)));
  });
  const parts = [...readFileSync(path.join(SOURCES, 'mod.rs'), 'utf8').matchAll(/\b(\w+)::PAGES\b/g)].map(([, part]) => part);
  const missing = parts.filter((part) => !files.some((file) => [`${part}.rs`, `${part}/mod.rs`].includes(file)));
  assert.deepEqual(missing, [], 'tables that were not found');
  const shown = rows.filter(({ method }) => method === 'GET');
  const unknown = Object.keys(NO_PAGES).filter((one) => !shown.some((row) => row.path === one));
  assert.deepEqual(unknown, [], 'rows that are no more');
  return shown.filter((row) => NO_PAGES[row.path] === undefined);
}

function rowsOf(table, file) {
  const rows = [...table.matchAll(ROW)].map(([, made, method, name]) => ({
    path: name.startsWith('"') ? name.slice(1, -1) : constant(name, file), method: method ?? METHODS[made], asks: made === 'asks',
  }));
  assert.equal(rows.length, table.split('||').length - 1, `${file} has rows of another kind`);
  return rows;
}

/** What a constant of this file says, or of a module in it. */
function constant(name, file) {
  const words = name.split('::');
  const own = words.pop();
  const module = path.join(path.dirname(file), ...words);
  const places = words.length === 0 ? [file] : [`${module}.rs`, `${module}/mod.rs`];
  const text = readFileSync(places.find(existsSync), 'utf8');
  const [, value] = new RegExp(`const ${own}: &str = "([^"]+)";`).exec(text) ?? assert.fail(`${name} in ${file}`);
  return value;
}

/** The row behind a path; where several would do, the one that says most. */
export function rowOf(rows, pathname) {
  const words = pathname.split('/');
  const isIt = ({ path: pattern }) => {
    const parts = pattern.split('/');
    return parts.length === words.length && parts.every((part, index) => part.startsWith('{') || part === words[index]);
  };
  const holes = ({ path: pattern }) => pattern.split('{').length;
  return rows.filter(isIt).sort((one, other) => holes(one) - holes(other))[0];
}

/** Links that lead to no page of ours. */
export const leadsElsewhere = (pathname) => rowOf(Object.keys(NO_PAGES).map((one) => ({ path: one })), pathname) !== undefined;
