// The pages of the repository, and the fenced blocks in them, for the suite of the documents.
//
// What a fenced block is, a comment in the line above it says:
//
//   <!-- session -->            commands with what they print; all of a page are run in one shell, in an empty home
//   <!-- session: terminal -->  one command that goes on, in a terminal of its own; what it prints first;
//                               a gateway takes the place of the one that runs
//   <!-- session: person -->    commands of which one sends somebody to a browser, who signs in as the page said before
//   <!-- session: owner -->     commands after somebody made the first owner's account by the link that was printed last
//   <!-- session: connect -->   commands after somebody followed the link that was printed last, and gave a value there
//   <!-- file: NAME -->         a file that the reader writes at this place of the session
//   <!-- more: NAME -->         lines that the reader adds to it
//   <!-- whole -->              configuration that is valid as it stands, beside the upstreams that it names
//   <!-- not run: REASON -->    a session that is for reading only
//   <!-- of: PROGRAM -->        TOML that is another program's

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

import { root } from './lib.mjs';

/** Every page of the repository, by its path from the root. */
export function pages(folder = '') {
  return readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory()) return /^(node_modules|target|\..*|portcullis-.*)$/.test(entry.name) ? [] : pages(name);
    return entry.name.endsWith('.md') ? [name] : [];
  });
}

export const read = (page) => readFileSync(path.join(root, page), 'utf8');

/** The fenced blocks of a page: `language`, `text`, `line`, and what the comment above says, as `mark` and `of`. */
export function blocks(page) {
  const found = [];
  let open;
  let above = '';
  for (const [at, line] of read(page).split('\n').entries()) {
    const fence = /^( *)(`{3,})([a-z]*)/.exec(line);
    if (open === undefined && fence !== null) {
      const [, mark, of] = /^<!-- (session|file|more|whole|not run|of)(?:: (.+?))? -->$/.exec(above) ?? [];
      open = { page, language: fence[3], fence: fence[2], indent: fence[1].length, line: at + 1, mark, of, lines: [] };
    } else if (open !== undefined && line.trim() === open.fence) {
      found.push({ ...open, text: open.lines.map((text) => `${text.slice(open.indent)}\n`).join('') });
      open = undefined;
      above = '';
    } else if (open !== undefined) {
      open.lines.push(line);
    } else if (line.trim() !== '') {
      above = line.trim();
    }
  }
  assert.equal(open, undefined, `${page}: a block is never closed`);
  return found;
}

export const place = ({ page, line }) => `${page}:${line}`;

/** A page without its blocks, and without code in its lines. */
export function prose(page) {
  const inBlocks = new Set(blocks(page).flatMap(({ line, lines }) => (
    Array.from({ length: lines.length + 2 }, (_, n) => line - 1 + n)
  )));
  return read(page).split('\n').map((line, at) => (inBlocks.has(at) ? '' : line.replaceAll(/`[^`]*`/g, '')));
}
