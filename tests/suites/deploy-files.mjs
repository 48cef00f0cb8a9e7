// What all folders of examples/deployments have in common: the headings of their READMEs, commands that there are, a configuration
// that the gateway accepts, a row in the comparison.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';

import { layout, runWithin } from './deploy-layout.mjs';
import { example, examples } from './deploy-parts.mjs';
import { built, run, scratch } from './lib.mjs';

const HEADINGS = ['What this is', 'What you need', 'Install', 'Check that it works', 'Upgrade', 'Back up', 'Remove'];
const FOLDERS = ['compose', 'docker', 'haproxy', 'helm', 'kubernetes', 'nginx', 'postgres-replicas', 'systemd'];

/** A command of the gateway, and what follows on its line. */
const COMMAND = /\bportcullis ((?:key|vault|connection|store|policy) [a-z-]+|check|status|backup|restore|serve)\b([^\n`|;]*)/g;

export async function checkFiles(report, pem) {
  await report.check('every deployment is compared, and every one that is compared is there', () => {
    const folders = readdirSync(examples, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map(({ name }) => name);
    const rows = [...example('README.md').matchAll(/^\| \[([\w-]+)\]\(([\w-]+)\) \|/gm)].map(([, name, target]) => (name === target ? name : `${name} → ${target}`));
    assert.deepEqual([folders.sort(), rows.sort()], [FOLDERS, FOLDERS]);
  });
  const commands = new Set();
  for (const folder of FOLDERS) {
    const readme = example(`${folder}/README.md`);
    await report.check(`${folder}: its README has the headings of all, and each has something under it`, () => {
      const sections = readme.split(/^## /m).slice(1).map((section) => section.split('\n'));
      assert.deepEqual(sections.map(([heading]) => heading), HEADINGS);
      for (const [heading, ...lines] of sections) assert.ok(lines.join('').length > 40, heading);
    });
    await report.check(`${folder}: what its README leads to is there`, () => {
      const links = [...readme.matchAll(/\]\(([^)#]+)\)/g)].map(([, target]) => target).filter((target) => !target.startsWith('http'));
      const files = [...readme.matchAll(/examples\/deployments\/[\w./-]*\w/g)].map(([file]) => path.join('../../..', file));
      const missing = [...links, ...files].filter((target) => !existsSync(path.join(examples, folder, target)));
      assert.deepEqual(missing, []);
    });
    await report.check(`${folder}: its commands are what a shell reads`, async () => {
      const blocks = [...readme.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block]) => block);
      assert.ok(blocks.length > 0, 'no commands');
      for (const block of blocks) {
        const { code, stderr } = await run(['bash', '-n', '-c', block]);
        assert.equal(code, 0, stderr);
      }
    });
    for (const [, words, rest] of readme.matchAll(COMMAND)) commands.add(`${words} ${[...rest.matchAll(/--[a-z]+/g)].join(' ')}`.trim());
    await report.check(`${folder}: its portcullis.toml is accepted`, () => accepts(folder, pem));
  }
  await report.check('commands of the READMEs are commands of the gateway, with the options that they are given', async () => {
    assert.ok(commands.size >= 6, [...commands].join());
    for (const command of commands) {
      const words = command.split(' ').filter((word) => !word.startsWith('--'));
      const { code, stdout, stderr } = await run([built('portcullis'), ...words, '--help']);
      assert.equal(code, 0, `${words.join(' ')}: ${stderr}`);
      for (const option of command.split(' ').filter((word) => word.startsWith('--'))) assert.ok(stdout.includes(option), command);
    }
  });
}

/** The gateway's own check of a configuration, in a layout that has what it names. */
async function accepts(folder, pem) {
  const secret = randomBytes(32).toString('hex');
  const places = ['run/secrets', 'run/secrets/portcullis', 'run/credentials/portcullis.service'];
  const secrets = Object.fromEntries(places.flatMap((place) => ['vault', 'database', 'kek-2026'].map((name) => [`${place}/${name}`, secret])));
  const files = {
    'etc/portcullis/portcullis.toml': example(`${folder}/portcullis.toml`),
    'run/secrets/portcullis/ca.crt': pem, 'etc/portcullis/database-ca.pem': pem,
  };
  const directories = { docker: 'run/secrets', compose: 'run/secrets', kubernetes: 'run/secrets/portcullis', helm: 'run/secrets/portcullis' };
  const env = { CREDENTIALS_DIRECTORY: `/${directories[folder] ?? 'run/credentials/portcullis.service'}` };
  const dir = await layout({ files, secrets });
  const { code, stdout, stderr } = await runWithin(dir, scratch(), ['portcullis', 'check', '--config', '/etc/portcullis/portcullis.toml'], env);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /: ok \(/);
  assert.ok(!stderr.includes('WARN'), stderr);
}
