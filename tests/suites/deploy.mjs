// The deployments of examples/deployments: that their files are what each tool reads, that their configurations are accepted, and
// that what they describe works when it runs.
//
//   node deploy.mjs [--only files,proxies,…] [--full]

import { parseArgs } from 'node:util';

import { checkContainers } from './deploy-containers.mjs';
import { checkFiles } from './deploy-files.mjs';
import { checkKubernetes } from './deploy-kubernetes.mjs';
import { certificate, startFixture } from './deploy-parts.mjs';
import { checkProxies } from './deploy-proxies.mjs';
import { checkReplicas } from './deploy-replicas.mjs';
import { checkStatic } from './deploy-static.mjs';
import { checkSystemd } from './deploy-systemd.mjs';
import { suite } from './lib.mjs';

const { values: options } = parseArgs({ options: { only: { type: 'string' }, full: { type: 'boolean' } } });

await suite('deploy', async (report) => {
  const upstream = await startFixture('deploy-fixture');
  const pem = await certificate();
  const parts = {
    files: () => checkFiles(report, pem.ca),
    containers: () => checkContainers(report, upstream),
    kubernetes: () => checkKubernetes(report, pem.ca),
    proxies: () => checkProxies(report, upstream, pem),
    systemd: () => checkSystemd(report, upstream),
    replicas: () => checkReplicas(report, upstream, pem),
    // A build of its own.
    ...(options.full && { static: () => checkStatic(report) }),
  };
  const chosen = options.only?.split(',') ?? Object.keys(parts);
  for (const part of chosen) {
    try {
      await parts[part]();
    } catch (error) {
      report.fail(`the part ${part} can run`, error);
    }
  }
});
