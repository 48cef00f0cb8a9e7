// Public MCP clients in one shape: both TypeScript SDKs over streamable HTTP or stdio, in each era they speak. With `answers`
// a client declares that it can be asked for things, answers by rule, and keeps what it was asked in `asked`; what it is told
// is in `heard`.

import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from '@modelcontextprotocol/client';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema,
} from '@modelcontextprotocol/sdk/types.js';

import { until } from './lib.mjs';

export const identity = { name: 'portcullis-clients-suite', version: '1.0.0' };

const ANSWERING = { sampling: {}, elicitation: { form: {}, url: {} }, roots: { listChanged: true } };

/** SDK v1 over streamable HTTP. */
export async function connectV1(url, headers = {}, options = {}) {
  const transport = new TransportV1(new URL(url), { requestInit: { headers } });
  return await useV1(transport, () => transport.protocolVersion, options);
}

/** SDK v1 over HTTP+SSE, which it speaks with servers of 2024-11-05. */
export async function connectV1Sse(url, headers = {}, options = {}) {
  const transport = new SSEClientTransport(new URL(url), { requestInit: { headers } });
  return await useV1(transport, () => undefined, options);
}

/** SDK v1 with a program that speaks stdio. */
export async function connectV1Stdio([command, ...args], env, options = {}) {
  const transport = new StdioClientTransport({ command, args, env, stderr: 'ignore' });
  return await useV1(transport, () => '2025-11-25', options);
}

async function useV1(transport, revision, { answers = false } = {}) {
  const client = new ClientV1(identity, { capabilities: answers ? ANSWERING : {} });
  const peer = shape(client, { answers, schemas: {
    'sampling/createMessage': CreateMessageRequestSchema,
    'elicitation/create': ElicitRequestSchema,
    'roots/list': ListRootsRequestSchema,
  } });
  await client.connect(transport);
  return {
    ...peer,
    revision: revision(),
    capabilities: client.getServerCapabilities(),
    call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options),
    level: (level) => client.setLoggingLevel(level),
    watch: watchLegacy(client),
  };
}

/** SDK v2 over streamable HTTP; `mode` says which era it looks for. */
export function connectV2(mode) {
  return async (url, headers = {}, { answers = false } = {}) => {
    const client = new ClientV2(identity, { versionNegotiation: { mode }, capabilities: answers ? ANSWERING : {} });
    const peer = shape(client, { answers });
    await client.connect(new TransportV2(new URL(url), { requestInit: { headers } }));
    const revision = client.getNegotiatedProtocolVersion();
    let logLevel;
    return {
      ...peer,
      revision,
      capabilities: client.getServerCapabilities(),
      call: (name, args, options) => {
        const meta = logLevel === undefined ? {} : { _meta: { 'io.modelcontextprotocol/logLevel': logLevel } };
        return client.callTool({ name, arguments: args, ...meta }, options);
      },
      // Said once for a session, or with each request where there are none.
      level: (level) => (revision < '2026' ? client.setLoggingLevel(level) : (logLevel = level)),
      watch: revision < '2026' ? watchLegacy(client) : watchModern(client),
    };
  };
}

/** What both SDKs have in common. */
function shape(client, { answers, schemas }) {
  const [asked, heard] = [[], []];
  client.fallbackNotificationHandler = async (notification) => heard.push(notification);
  if (answers) {
    for (const [method, answer] of Object.entries(ANSWERS)) {
      client.setRequestHandler(schemas?.[method] ?? method, async ({ params }) => {
        asked.push({ method, params });
        return answer(params);
      });
    }
  }
  return {
    asked,
    heard,
    /** Waits until something was heard of this method, by `from` messages on, and `holds` of its parameters. */
    hears: (method, { from = 0, holds = () => true } = {}) => until(
      `${method} is heard`, () => heard.slice(from).find((told) => told.method === method && holds(told.params)), 10_000,
    ),
    tools: () => everyPage('tools', (params) => client.listTools(params)),
    prompts: () => everyPage('prompts', (params) => client.listPrompts(params)),
    resources: () => everyPage('resources', (params) => client.listResources(params)),
    templates: () => everyPage('resourceTemplates', (params) => client.listResourceTemplates(params)),
    prompt: (name, args) => client.getPrompt({ name, arguments: args }),
    read: (uri) => client.readResource({ uri }),
    complete: (params) => client.complete(params),
    ping: () => client.ping(),
    close: () => client.close(),
  };
}

async function everyPage(member, list) {
  const items = [];
  let cursor;
  do {
    const page = await list(cursor === undefined ? {} : { cursor });
    items.push(...page[member]);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return items;
}

/** Subscribes to a resource; list changes are told without. Returns how to end it. */
function watchLegacy(client) {
  return async (uri) => {
    await client.subscribeResource({ uri });
    return () => client.unsubscribeResource({ uri });
  };
}

function watchModern(client) {
  return async (uri) => {
    const subscription = await client.listen({
      toolsListChanged: true, promptsListChanged: true, resourcesListChanged: true, resourceSubscriptions: [uri],
    });
    return () => subscription.close();
  };
}

// ---- what clients answer --------------------------------------------------------------------------------------

const ANSWERS = {
  'sampling/createMessage': () => (
    { role: 'assistant', model: 'none', stopReason: 'endTurn', content: { type: 'text', text: 'A sampled answer.' } }
  ),
  'elicitation/create': ({ mode, requestedSchema }) => {
    if (mode === 'url') return { action: 'accept' };
    const fields = Object.entries(requestedSchema.properties);
    return { action: 'accept', content: Object.fromEntries(fields.map(([name, schema]) => [name, valueOf(schema)])) };
  },
  'roots/list': () => ({ roots: [{ uri: 'file:///workspace', name: 'workspace' }] }),
};

/** A value that a form's field takes: its default, the first of its choices, or something of its type. */
function valueOf(schema) {
  if (schema.default !== undefined) return schema.default;
  const choice = (of) => of?.enum?.[0] ?? of?.oneOf?.[0].const ?? of?.anyOf?.[0].const;
  if (schema.type === 'array') return [choice(schema.items)];
  if (choice(schema) !== undefined) return choice(schema);
  if (schema.type === 'boolean') return true;
  if (schema.type === 'string') return schema.format === 'email' ? 'somebody@example.com' : 'somebody';
  return schema.minimum ?? 1;
}
