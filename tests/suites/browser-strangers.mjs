// What strangers' texts and pages can do to the pages of the authorization server, which is nothing.

import assert from 'node:assert/strict';
import http from 'node:http';

import { PERSON, register, request } from './gatekeeper.mjs';
import { Visitor, callback } from './visitor.mjs';

const CHECK_MS = 60_000;

/** Texts that have broken pages of others. */
const HOSTILE = [
  '<script>window.__broken = 1; alert(1)</script>',
  '"><img src=x onerror="window.__broken = 1; alert(1)">',
  '\' onmouseover=\'window.__broken = 1\' autofocus onfocus=\'window.__broken = 1\' x=\'',
  '</title></style></textarea><svg/onload=alert(1)>',
  '<iframe srcdoc="<script>parent.__broken = 1</script>">',
  '<a href="javascript:alert(1)">Claude</a>',
  '<form action="https://evil.example"><button>Finish</button></form>',
  '<base href="https://evil.example/">',
  '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
  '<link rel=stylesheet href="https://evil.example/x.css">',
  '<style>*{display:none!important}</style>',
  '{{constructor.constructor("alert(1)")()}}',
  '${alert(1)}<%= 7*7 %>#{7*7}',
  'javascript:/*--></title></style></textarea></script></xmp><svg/onload=\'+/"/+/onmouseover=1/+/[*/[]/+alert(1)//\'>',
  '&lt;script&gt;alert(1)&lt;/script&gt;',
  'Claude\u202e\u2066\u200b Code',
  'x'.repeat(300),
  '\u0000\u001b[31mred\u0007',
  '𝕿𝖊𝖘𝖙 ﷽﷽﷽ Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L',
];

// ---- texts of strangers (A12) ---------------------------------------------------------------------------------

export async function checkStrangers(report, { origin, client }) {
  const visitor = await Visitor.arrive({ origin });
  const { page } = visitor;
  for (const [number, hostile] of HOSTILE.entries()) {
    await report.check(`a client called ${JSON.stringify(hostile.slice(0, 40))} is but text`, async () => {
      const back = await callback();
      const metadata = { client_name: hostile, redirect_uris: [back.url], software_id: hostile, contacts: [hostile] };
      let answer = await register(origin, metadata);
      if (answer.status === 400) answer = await register(origin, { client_name: hostile, redirect_uris: [back.url] });
      if (answer.status === 400) {
        assert.equal(answer.error, 'invalid_client_metadata');
        back.close();
        return;
      }
      await page.goto(request(origin, { id: answer.client_id, redirect: back.url }).url);
      await judgeStranger(visitor, hostile);
      await visitor.choose(PERSON);
      await judgeStranger(visitor, hostile);
      await visitor.press('finish');
      await back.answer;
      await page.waitForURL((url) => url.href.startsWith(back.url));
      await page.goto(`${origin}/account`);
      await judgeStranger(visitor, hostile);
      back.close();
    }, { within: CHECK_MS });
    await report.check(`address parameters like text ${number} are but text`, async () => {
      for (const name of ['scope', 'client_id', 'redirect_uri', 'resource', 'login_hint', 'ui_locales', 'prompt', 'error']) {
        await page.goto(request(origin, { ...client, [name === 'redirect_uri' ? 'redirect' : name]: hostile }).url);
        if (page.url().startsWith(origin)) await judgeStranger(visitor, hostile);
      }
      await page.goto(`${origin}/sign-in?${new URLSearchParams({ next: hostile })}`);
      await judgeStranger(visitor, hostile);
    }, { within: CHECK_MS });
  }
  await report.check('a login of markup comes back as text', async () => {
    for (const hostile of HOSTILE.filter((text) => text.length < 120)) {
      await page.goto(`${origin}/sign-in?again=1`);
      await visitor.signIn(hostile, 'x');
      await judgeStranger(visitor, hostile);
    }
  }, { within: CHECK_MS });
  await visitor.leave();
}

/** Nothing of a stranger's text is anything but text. */
async function judgeStranger(visitor, hostile) {
  visitor.assertUntroubled();
  const found = await visitor.page.evaluate(() => {
    const all = [...document.querySelectorAll('*')];
    return {
      broken: globalThis.__broken,
      elements: all.map(({ localName }) => localName)
        .filter((name) => ['script', 'img', 'iframe', 'object', 'embed', 'base', 'style'].includes(name)),
      handlers: all.flatMap(({ attributes }) => [...attributes].map(({ name }) => name)).filter((name) => name.startsWith('on')),
      foreign: [...document.querySelectorAll('[href], [src], [action]')]
        .map((element) => element.href || element.src || element.action).filter((to) => typeof to === 'string'
          && !to.startsWith(`${location.origin}/`) && !to.startsWith('data:') && to !== ''),
      refreshes: document.querySelectorAll('meta[http-equiv]').length,
      shown: document.body.innerText, where: location.origin,
    };
  });
  assert.deepEqual([found.broken, found.elements, found.handlers, found.foreign, found.refreshes], [undefined, [], [], [], 0], hostile);
  assert.doesNotMatch(found.shown, /[\u202a-\u202e\u2066-\u2069\u200b\u0000\u001b]/);
}

// ---- pages of strangers (A10, A11) ----------------------------------------------------------------------------

export async function checkForeignPages(report, { origin, client }) {
  // Another port of loopback is the same site to a browser: cookies are sent, and only the origin tells.
  const pages = new Map();
  const server = http.createServer((asked, response) => {
    response.writeHead(200, { 'content-type': 'text/html' }).end(pages.get(asked.url) ?? '');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const evil = `http://127.0.0.1:${server.address().port}`;
  const visitor = await Visitor.arrive({});
  const { page } = visitor;
  await page.goto(request(origin, client).url);
  await visitor.choose(PERSON);
  const consent = page.url();
  const fields = await page.locator('form[action$="/finish"] input').evaluateAll((inputs) => (
    inputs.map(({ name, value }) => [name, value])
  ));
  await report.check('no page of ours is shown in a frame of others', async () => {
    for (const target of [consent, `${origin}/sign-in`, `${origin}/account`]) {
      pages.set('/frame', `<iframe src="${target}" width=600 height=600></iframe>`);
      const other = await visitor.context.newPage();
      await other.goto(`${evil}/frame`);
      await other.waitForLoadState();
      const texts = await Promise.all(other.frames().slice(1).map((frame) => frame.content().catch(() => '')));
      assert.ok(texts.every((text) => !text.includes('Portcullis')), target);
      await other.close();
    }
  });
  for (const [what, inputs] of [
    ['with the token of the page', fields], ['without a token', fields.filter(([name]) => name !== 'form_token')],
  ]) {
    await report.check(`a form of another origin finishes nothing, ${what}`, async () => {
      const hidden = inputs.map(([name, value]) => `<input name="${name}" value="${value}">`).join('');
      pages.set('/form', `<form method=post action="${consent}/finish">${hidden}<button>x</button></form>`);
      const other = await visitor.context.newPage();
      await other.goto(`${evil}/form`);
      const answered = other.waitForResponse((answer) => answer.url().includes('/finish'));
      await other.locator('button').click();
      const answer = await answered;
      assert.equal(answer.status(), 403);
      const { cookie } = await answer.request().allHeaders();
      assert.ok(cookie !== undefined, 'the cookies were sent, so that only the origin told');
      await other.close();
    });
  }
  await report.check('no script of the page itself could read a cookie', async () => {
    assert.equal(await page.evaluate(() => document.cookie), '');
    const cookies = await visitor.context.cookies(origin);
    assert.ok(cookies.length > 0);
    for (const { name, httpOnly, sameSite, path: where } of cookies) {
      assert.deepEqual([httpOnly, sameSite, where], [true, 'Lax', '/'], name);
    }
  });
  await report.check('after all that the person finishes', async () => {
    await page.goto(consent);
    const left = page.waitForRequest((sent) => sent.url().startsWith(client.redirect));
    await visitor.press('finish');
    assert.match((await left).url(), /code=/);
  });
  await visitor.leave();
  server.close();
}
