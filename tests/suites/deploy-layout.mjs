// The layout of the container image, run without an engine: the program and the libraries that it names in a directory of their
// own, read-only, with a volume for data, as the image's user and without any privilege. It needs user namespaces, or root.

import assert from 'node:assert/strict';
import { copyFileSync, cpSync, existsSync, linkSync, mkdirSync, realpathSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { built, run, scratch, start } from './lib.mjs';

/** The user of the image. */
export const USER = 65532;

/** Mounts everything where the image has it, and becomes the program. `$0` is the directory, `$1` the volume. */
const ENTER = `
  set -eu
  root=$0 data=$1
  shift
  mount --bind "$root" "$root"
  mount --bind "$data" "$root/var/lib/portcullis"
  mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/tmp"
  mount --rbind /proc "$root/proc"
  mount -o remount,bind,ro "$root"
  exec setpriv --no-new-privs unshare --user --map-user=${USER} --map-group=${USER} --root="$root" --wd=/var/lib/portcullis "$@"
`;

/** Programs besides the gateway of the image's base that manifests use. */
const TOOLS = ['/bin/sh', '/bin/sed', '/bin/grep', '/bin/sleep'];

/** A directory as the image has it, with these files besides (contents by path). Files of `secrets` are their reader's alone. */
export async function layout({ files = {}, secrets = {}, hosts = [] } = {}) {
  const dir = scratch();
  const at = (file) => {
    const target = path.join(dir, file);
    mkdirSync(path.dirname(target), { recursive: true });
    return target;
  };
  for (const place of ['var/lib/portcullis', 'tmp', 'proc', 'etc', 'run/secrets']) mkdirSync(path.join(dir, place), { recursive: true });
  place(built('portcullis'), at('usr/local/bin/portcullis'));
  for (const tool of TOOLS) place(realpathSync(tool), at(tool));
  for (const library of await librariesOf([built('portcullis'), ...TOOLS])) {
    if (!existsSync(at(library))) copyFileSync(realpathSync(library), at(library));
  }
  const authorities = '/etc/ssl/certs/ca-certificates.crt';
  if (existsSync(authorities)) cpSync(authorities, at(authorities));
  writeFileSync(at('etc/passwd'), `portcullis:x:${USER}:${USER}::/var/lib/portcullis:/usr/sbin/nologin\n`);
  writeFileSync(at('etc/hosts'), ['localhost', ...hosts].map((host) => `127.0.0.1 ${host}\n`).join(''));
  for (const [file, content] of Object.entries(files)) writeFileSync(at(file), content);
  for (const [file, content] of Object.entries(secrets)) writeFileSync(at(file), content, { mode: 0o400 });
  return dir;
}

/** A copy of a file; the same file, where that can be. */
function place(from, to) {
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to);
  }
}

/** What `ldd` says that programs need. */
async function librariesOf(programs) {
  const { stdout, code, stderr } = await run(['ldd', ...programs]);
  assert.equal(code, 0, stderr);
  return new Set([...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, library]) => library));
}

/** The command that runs a program of a layout, with a directory for its volume. */
export const within = (dir, volume, command) => [
  'unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', ENTER, dir, volume, ...command,
];

/** Starts a program of a layout. */
export const startWithin = (name, dir, volume, command, env) => start(name, within(dir, volume, command), { env: inside(env) });

/** Runs a program of a layout to its end. */
export const runWithin = (dir, volume, command, env) => run(within(dir, volume, command), { env: inside(env), within: 60_000 });

const inside = (env = {}) => ({ PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/var/lib/portcullis', ...env });
