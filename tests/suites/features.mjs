// Everything of MCP besides plain tools, for one client and one upstream: prompts, resources, completions, logs, what servers
// ask of clients and what they tell them. A client through the gateway must get what another got from the server directly.

import assert from 'node:assert/strict';

const WATCHED = 'test://watched-resource';

/** What there is to ask for at server-everything. `get` runs one of them with a client. */
const EVERYTHING = {
  prompts: [
    ['simple-prompt', {}], ['args-prompt', { city: 'Oslo', state: 'none' }],
    ['completable-prompt', { department: 'Sales', name: 'David' }],
    ['resource-prompt', { resourceType: 'Text', resourceId: '3' }],
  ],
  resources: [
    'demo://resource/dynamic/text/5', 'demo://resource/dynamic/blob/6', 'demo://resource/static/document/features.md',
  ],
  completions: [
    { ref: { type: 'ref/prompt', name: 'completable-prompt' }, argument: { name: 'department', value: 'S' } },
    {
      ref: { type: 'ref/prompt', name: 'completable-prompt' }, argument: { name: 'name', value: '' },
      context: { arguments: { department: 'Marketing' } },
    },
    {
      ref: { type: 'ref/resource', uri: 'demo://resource/dynamic/text/{resourceId}' },
      argument: { name: 'resourceId', value: '1' },
    },
  ],
};

const FIXTURE = {
  prompts: [
    ['test_simple_prompt', {}], ['test_prompt_with_arguments', { arg1: 'one', arg2: 'zwei \u{1F3F0}' }],
    ['test_prompt_with_embedded_resource', { resourceUri: 'test://example' }], ['test_prompt_with_image', {}],
  ],
  resources: ['test://static-text', 'test://static-binary', WATCHED, 'test://template/7%20b/data'],
  completions: [
    { ref: { type: 'ref/prompt', name: 'test_prompt_with_arguments' }, argument: { name: 'arg1', value: 'par' } },
    {
      ref: { type: 'ref/prompt', name: 'test_prompt_with_arguments' }, argument: { name: 'arg2', value: '' },
      context: { arguments: { arg1: 'paris' } },
    },
    { ref: { type: 'ref/resource', uri: 'test://template/{id}/data' }, argument: { name: 'id', value: '1' } },
  ],
};

/** Tools of the fixture that ask the client back. */
const ASKING = [
  ['test_sampling', { prompt: 'How are you?' }],
  ['test_elicitation', { message: 'Who are you?' }],
  ['test_elicitation_sep1034_defaults', {}],
  ['test_elicitation_sep1330_enums', {}],
  ['test_list_roots', {}],
  ['test_input_required_result_elicitation', {}],
  ['test_input_required_result_multiple_inputs', {}],
  ['test_input_required_result_multi_round', {}],
  ['test_input_required_result_request_state', {}],
];

/** Remembers what the server itself answers, so that it is asked once for all clients. */
export function rememberer(client) {
  const answers = new Map();
  return (what, ask) => {
    if (!answers.has(what)) answers.set(what, ask(client));
    return answers.get(what);
  };
}

/** Lists, prompts, resources and completions. `same` compares what a client got with what the server says itself. */
export async function checkContent(report, { title, client, direct, same, of }) {
  const offers = of === 'everything' ? EVERYTHING : FIXTURE;
  const equal = (what, ask) => report.check(`${title}: ${what}`, async () => same(await ask(client), await direct(what, ask)));

  for (const list of ['prompts', 'resources', 'templates']) {
    await equal(`the list of ${list}`, async (peer) => ({ items: (await peer[list]()).filter(isLasting).sort(byIdentity) }));
  }
  for (const [name, args] of offers.prompts) await equal(`the prompt ${name}`, (peer) => peer.prompt(name, args));
  for (const uri of offers.resources) await equal(`the resource ${uri}`, (peer) => peer.read(uri));
  for (const [index, params] of offers.completions.entries()) {
    await equal(`completion ${index + 1} of ${params.argument.name}`, (peer) => peer.complete(params));
  }
}

/** What server-everything keeps of earlier calls is another thing in each of its sessions. */
function isLasting({ uri }) {
  return !uri?.startsWith('demo://resource/session/');
}

function byIdentity(a, b) {
  const key = ({ uri, uriTemplate, name }) => uri ?? uriTemplate ?? name;
  return key(a) < key(b) ? -1 : 1;
}

/**
 * What the fixture asks of a client that answers, in the middle of calls, prompts and reads. `pages`: whether it can be sent
 * to a page.
 */
export async function checkQuestions(report, { title, client, direct, same, pages = true }) {
  const equal = (what, ask) => report.check(`${title}: ${what}`, async () => {
    const told = async (peer) => {
      const before = peer.asked.length;
      const result = await ask(peer);
      return { ...result, asked: peer.asked.slice(before).map(essence).sort(byText) };
    };
    const wanted = await direct(what, told);
    assert.ok(wanted.asked.length > 0, 'the server itself asks nothing');
    same(await told(client), wanted);
  });

  for (const [tool, args] of ASKING) await equal(`${tool} asks and goes on`, (peer) => peer.call(tool, args));
  if (pages) await equal('test_url_elicitation asks and goes on', (peer) => peer.call('test_url_elicitation', {}));
  await equal('a prompt asks and goes on', (peer) => peer.prompt('test_input_required_result_prompt', {}));
  await equal('a resource asks and goes on', (peer) => peer.read('test://confirmed-text'));
}

/** A question as the person who answers sees it. */
function essence({ method, params = {} }) {
  const { message, requestedSchema, url, messages, maxTokens, systemPrompt } = params;
  return { method, message, requestedSchema, url: url?.replace(/visit-.*/, 'visit'), messages, maxTokens, systemPrompt };
}

function byText(a, b) {
  return JSON.stringify(a) < JSON.stringify(b) ? -1 : 1;
}

/** What the fixture tells a client: logs while it works, updates of a resource, changes of its lists. */
export async function checkNotices(report, { title, client }) {
  await report.check(`${title}: logs arrive before the result, once they are wanted`, async () => {
    await client.level('info');
    const before = client.heard.length;
    await client.call('test_tool_with_logging', {});
    const logs = client.heard.slice(before).filter(({ method }) => method === 'notifications/message');
    assert.deepEqual(logs.map(({ params }) => [params.level, params.logger, params.data]), [
      ['info', 'fixture', 'Tool execution started'],
      ['info', 'fixture', 'Tool processing data'],
      ['info', 'fixture', 'Tool execution completed'],
    ]);
  });

  let end;
  const watching = await report.check(`${title}: subscribes to a resource`, async () => {
    end = await client.watch(WATCHED);
  });
  if (!watching) return;
  await report.check(`${title}: hears that the resource has changed`, async () => {
    const from = client.heard.length;
    await client.call('test_trigger_resource_update', { uri: WATCHED });
    const { params } = await client.hears('notifications/resources/updated', { from });
    assert.equal(params.uri, WATCHED);
  });
  for (const [list, tool, name] of [
    ['tools', 'test_trigger_tool_change', 'test_dynamic_tool'],
    ['prompts', 'test_trigger_prompt_change', 'test_dynamic_prompt'],
    ['resources', 'test_trigger_resource_change', 'test_dynamic_resource'],
  ]) {
    await report.check(`${title}: hears that the list of ${list} has changed, and sees how`, async () => {
      const isListed = async () => (await client[list]()).some((item) => item.name === name);
      assert.equal(await isListed(), false);
      for (const listed of [true, false]) {
        const from = client.heard.length;
        await client.call(tool, {});
        await client.hears(`notifications/${list}/list_changed`, { from });
        assert.equal(await isListed(), listed);
      }
    });
  }
  await report.check(`${title}: ends its subscription`, async () => {
    await end();
  });
}
