// The book in docs/, held to what it says: its terminal sessions are run against the gateway, its links lead somewhere, its
// pieces of configuration and its commands are known to the program.
//
//   node docs.mjs            everything
//   node docs.mjs PAGE…      the sessions of some pages alone, such as docs/getting-started.md
//   node docs.mjs --write PAGE…  the same, and what a command prints now takes the place of what the page says
//
// What a fenced block is, a comment above it says: docs-pages.mjs has them all.

import assert from 'node:assert/strict';

import {
  checkCitations, checkCommands, checkConfiguration, checkContents, checkDiagrams,
  checkJson, checkLinks, checkReference, checkTests,
} from './docs-checks.mjs';
import { blocks, pages, place } from './docs-pages.mjs';
import { checkSession } from './docs-sessions.mjs';
import { suite } from './lib.mjs';
import { closeChromium } from './visitor.mjs';

await suite('docs', async (report) => {
  const all = pages();
  const writes = process.argv[2] === '--write';
  const chosen = process.argv.slice(writes ? 3 : 2);
  if (chosen.length === 0) {
    await checkLinks(report, all);
    await checkContents(report, all);
    await checkTests(report);
    await checkCitations(report);
    await checkJson(report, all);
    await checkDiagrams(report, all);
    await checkReference(report);
    await checkCommands(report, all.filter((page) => page !== 'CHANGELOG.md'));
    await checkConfiguration(report, all);
    await report.check('every session of docs is run, or says why not', () => {
      const sessions = all.filter((page) => page.startsWith('docs/')).flatMap(blocks)
        .filter(({ language, text }) => language === 'console' && text.startsWith('$ '));
      assert.deepEqual(sessions.filter(({ mark }) => mark === undefined).map(place), []);
    });
  }
  const withSessions = all.filter((page) => blocks(page).some(({ mark }) => mark === 'session'));
  assert.ok(withSessions.includes('docs/getting-started.md'));
  for (const page of chosen.length > 0 ? chosen : withSessions) await checkSession(report, page, writes);
  await closeChromium();
});
