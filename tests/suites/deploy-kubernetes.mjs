// The manifests of Kubernetes and what the Helm chart makes of several values: the objects, and what a pod does before its gateway
// starts.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';

import { layout, runWithin } from './deploy-layout.mjs';
import { adapted, example, examples, HOST, python } from './deploy-parts.mjs';
import { run, scratch, suiteFile } from './lib.mjs';

/** Where the first container of a pod writes, in a layout that has no other place. */
const CONFIG = '/tmp/portcullis.toml';

export async function checkKubernetes(report, pem) {
  const read = await run([python('python'), suiteFile('deploy-manifests.py'), 'kubernetes', examples], { within: 60_000 });
  const areTaken = 'kubernetes, helm: every object is what two versions of Kubernetes take, and nothing more';
  if (!(await report.check(areTaken, () => assert.equal(read.code, 0, read.stderr)))) return;
  const { sources, lint, taken } = JSON.parse(read.stdout);
  await report.check('helm: the linter warns of nothing', () => assert.deepEqual(lint, []));
  await report.check('helm: values with a secret in an address, in the clear or misspelled are refused', () => assert.deepEqual(taken, []));
  await report.check('helm: its portcullis.toml is what its values make', () => {
    assert.equal(example('helm/portcullis.toml').replace(/^(#.*\n)+/, ''), sources.helm.config.replace(/^(#.*\n)+/, ''));
  });
  for (const [source, found] of Object.entries(sources)) {
    checkObjects(report, source, found.objects);
    await checkPod(report, source, found, pem);
  }
  await report.check('helm: values decide about replicas, images, the way in and what may be lost', () => {
    const of = (source, kind) => sources[source].objects.filter((object) => object.kind === kind);
    const image = (source) => of(source, 'Deployment')[0].spec.template.spec.containers[0].image;
    assert.deepEqual([of('helm', 'Deployment')[0].spec.replicas, of('helm small', 'Deployment')[0].spec.replicas], [3, 1]);
    assert.equal(of('helm production', 'Deployment')[0].spec.replicas, undefined, 'the autoscaler alone says how many');
    assert.equal(of('helm production', 'HorizontalPodAutoscaler')[0].spec.maxReplicas, 12);
    assert.deepEqual(['helm', 'helm small'].map((source) => of(source, 'HorizontalPodAutoscaler').length), [0, 0]);
    assert.deepEqual(['helm', 'helm small'].map((source) => of(source, 'PodDisruptionBudget').length), [1, 0]);
    assert.match(image('helm production'), /@sha256:0{64}$/);
    assert.match(image('helm'), /:0\.1\.0$/);
    assert.equal(of('helm production', 'Ingress')[0].spec.rules[0].host, HOST);
    assert.equal(of('helm upstreams', 'Deployment')[0].spec.template.spec.containers[0].readinessProbe.httpGet.httpHeaders[0].value, `${HOST}:8443`);
    assert.match(sources['helm production'].notes, /rollout status deployment\/portcullis/);
    assert.ok(sources.helm.notes.includes('trustedProxies is empty') && !sources['helm production'].notes.includes('trustedProxies is empty'));
  });
}

/** What holds for each source of objects. */
function checkObjects(report, source, objects) {
  const one = (kind) => objects.find((object) => object.kind === kind);
  const pod = one('Deployment').spec.template;
  const checks = {
    'pods are restricted, and every container is': () => {
      const { securityContext, automountServiceAccountToken, containers, initContainers } = pod.spec;
      assert.deepEqual([securityContext.runAsNonRoot, securityContext.seccompProfile.type, automountServiceAccountToken], [true, 'RuntimeDefault', false]);
      for (const { securityContext: own, resources } of [...containers, ...initContainers]) {
        assert.deepEqual(own, { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } });
        assert.ok(resources.limits.memory && resources.requests.cpu);
      }
    },
    'selectors select the pods, and services lead to their ports': () => {
      const labels = Object.entries(pod.metadata.labels);
      const selects = (selector) => Object.entries(selector).every(([name, value]) => labels.some(([key, is]) => key === name && is === value));
      const selectors = objects.flatMap(({ kind, spec }) => {
        if (kind === 'Service') return [spec.selector];
        if (['Deployment', 'PodDisruptionBudget'].includes(kind)) return [spec.selector.matchLabels];
        return kind === 'NetworkPolicy' ? [spec.podSelector.matchLabels] : [];
      });
      assert.ok(selectors.length >= 3 && selectors.every(selects), JSON.stringify(selectors));
      const ports = pod.spec.containers[0].ports.map(({ name, containerPort }) => [name, containerPort]);
      assert.deepEqual(ports, [['public', 7400], ['replica', 7402]]);
      const targets = objects.filter(({ kind }) => kind === 'Service').flatMap(({ spec }) => spec.ports.map(({ targetPort }) => targetPort));
      assert.deepEqual(targets, ['public', 'replica']);
    },
    'probes ask for the public host, and a pod has time to end': () => {
      const [{ startupProbe, livenessProbe, readinessProbe, lifecycle }] = pod.spec.containers;
      assert.deepEqual([startupProbe, livenessProbe, readinessProbe].map(({ httpGet }) => httpGet.path), ['/healthz', '/healthz', '/readyz']);
      for (const { httpGet } of [startupProbe, livenessProbe, readinessProbe]) assert.equal(httpGet.httpHeaders[0].name, 'Host');
      const pause = Number(lifecycle.preStop.exec.command[1]);
      // After the pause, the 20 s that requests in flight have by default, and a minute for the rest.
      assert.ok(pod.spec.terminationGracePeriodSeconds >= pause + 80, String(pause));
    },
    'what volumes are mounted is there, and no secret is in an object': () => {
      const volumes = pod.spec.volumes.map(({ name }) => name);
      const mounts = [...pod.spec.containers, ...pod.spec.initContainers].flatMap(({ volumeMounts }) => volumeMounts.map(({ name }) => name));
      assert.deepEqual([...new Set(mounts)].sort(), [...volumes].sort());
      assert.equal(one('Secret'), undefined);
    },
  };
  for (const [sentence, body] of Object.entries(checks)) void report.check(`${source}: ${sentence}`, body);
}

/** The first container of a pod, at several addresses and with a mistake. */
async function checkPod(report, source, { config, init, env, secrets }, pem) {
  const attempt = async (address, text) => {
    const dir = await layout({ files: { 'template/portcullis.toml': text }, secrets: secretsOf(secrets, pem) });
    // A pod has a directory for its configuration; here it is shown at the end.
    const script = adapted(init.at(-1), [['/etc/portcullis/portcullis.toml', CONFIG], ['exec portcullis check', `portcullis check && sed "" ${CONFIG}`]]);
    const variables = { ...env, POD_IP: address, PORTCULLIS_CONFIG: CONFIG, TRACKER_TOKEN: 'of-the-tracker' };
    return runWithin(dir, scratch(), [...init.slice(0, -1), script], variables);
  };
  for (const [address, expected] of [['10.1.2.3', '10.1.2.3:7402'], ['fd00::7', '[fd00::7]:7402']]) {
    await report.check(`${source}: a pod at ${address} gets a configuration that is accepted, with its address`, async () => {
      const { code, stdout, stderr } = await attempt(address, config);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /: ok \(/);
      assert.ok(stdout.includes(`\nlisten = "${expected}"\n`), stdout);
    });
  }
  await report.check(`${source}: a mistake in the configuration stops the pod before the gateway`, async () => {
    const { code, stderr } = await attempt('10.1.2.3', config.replace('data_dir', 'data_dri'));
    assert.notEqual(code, 0);
    assert.match(stderr, /data_dri/);
  });
}

/** Secrets of a pod by their paths: keys for the vault, a certificate, a password. */
function secretsOf(paths, pem) {
  const content = (file) => (/ca(\.crt)?$/.test(file) ? pem : randomBytes(32).toString('hex'));
  return Object.fromEntries(paths.map((file) => [file, content(file)]));
}
