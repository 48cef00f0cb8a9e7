// What holds for every page, whoever looks at it and on what; and the pictures of them all.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';

import { installed } from './lib.mjs';
import { Visitor } from './visitor.mjs';

const axe = readFileSync(installed('axe-core/axe.min.js'), 'utf8');
const CHECK_MS = 60_000;
/** What a picture shows of a long page, in pixels. */
const TALLEST = 2400;
/** Largest picture, in bytes. */
const MAX_PICTURE = 250_000;

export const VIEWS = [
  { name: 'desktop', width: 1280, height: 800, scheme: 'light' },
  { name: 'desktop-dark', width: 1280, height: 800, scheme: 'dark' },
  { name: 'phone', width: 320, height: 640, scheme: 'light' },
  { name: 'phone-dark', width: 320, height: 640, scheme: 'dark' },
];
/** Of which there are pictures in the documentation. */
export const PICTURED = ['desktop', 'phone-dark'];

const picturesAt = process.argv.indexOf('--screenshots');
const pictures = picturesAt === -1 ? undefined : path.resolve(process.argv[picturesAt + 1]);
const taken = new Set();

/** Goes from page to page at one size and in one scheme, and judges each. */
export class Walk {
  constructor(report, view, visitor) {
    Object.assign(this, { report, view, visitor });
  }

  static async begin(report, view, origin) {
    return new Walk(report, view, await Visitor.arrive({ ...view, origin }));
  }

  get page() {
    return this.visitor.page;
  }

  /**
   * Does what leads to the page with this name, which has to say what is wanted, and judges it. `scripts` are those that it
   * may have. Not every page is worth a picture.
   */
  async seen(name, go, wanted, { scripts = 0, pictured = true } = {}) {
    const { page, report, view } = this;
    const title = `${view.name}: ${name}`;
    const there = await report.check(`${title} is shown`, async () => {
      await go();
      await page.waitForLoadState();
      assert.match(await page.locator('main').innerText(), wanted);
    }, { within: CHECK_MS });
    if (!there) return;
    if (pictures !== undefined && pictured && PICTURED.includes(view.name)) {
      const file = `${name}-${view.name}.png`;
      assert.ok(!taken.has(file), `two pages are called ${name}`);
      taken.add(file);
      const height = await page.evaluate(() => document.documentElement.scrollHeight);
      const clip = { x: 0, y: 0, width: view.width, height: Math.min(height, TALLEST) };
      await page.screenshot({ path: path.join(pictures, file), fullPage: true, clip, animations: 'disabled' });
    }
    await judge(report, page, title, scripts);
  }

  async end() {
    await this.report.check(`${this.view.name}: nothing complained`, () => this.visitor.assertUntroubled());
    await this.visitor.leave();
  }
}

async function judge(report, page, title, scripts) {
  await report.check(`${title} fits, and says what it is`, async () => {
    const facts = await page.evaluate(() => ({
      wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      title: document.title, lang: document.documentElement.lang, headings: document.querySelectorAll('h1').length,
      scripts: document.scripts.length, small: [...document.querySelectorAll('main p, main li, main button, main input')]
        .filter((element) => element.checkVisibility() && parseFloat(getComputedStyle(element).fontSize) < 12).length,
    }));
    assert.ok(facts.wide <= 0, `it is ${facts.wide} px too wide`);
    assert.match(facts.title, /Portcullis/);
    assert.deepEqual([facts.lang, facts.headings, facts.scripts, facts.small], ['en', 1, scripts, 0]);
  });
  await report.check(`${title} can be used by everybody (axe)`, async () => {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, {
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    }));
    const found = violations.map(({ id, nodes }) => [id, ...nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`)]);
    assert.deepEqual(found, []);
  }, { within: CHECK_MS });
  await report.check(`${title} can be gone through with Tab`, () => goThrough(page));
}

/** Goes from each thing that one can use to the next: in the order of the page, and one always sees where one is. */
async function goThrough(page) {
  const all = await page.evaluate(() => {
    // From the beginning of the page, whatever was used in it before.
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute('tabindex');
    globalThis.__usable = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]')]
      .filter((element) => element.tabIndex >= 0 && element.checkVisibility())
      // Of radio buttons that belong together, Tab leads to the chosen one, or to the first.
      .filter((element, _, all) => {
        if (element.type !== 'radio') return true;
        const group = all.filter(({ type, name, form }) => type === 'radio' && name === element.name && form === element.form);
        return element === (group.find(({ checked }) => checked) ?? group[0]);
      });
    return globalThis.__usable.length;
  });
  for (let expected = 0; expected < all; expected += 1) {
    // A moment has a part for each of its numbers.
    const before = await page.evaluateHandle(() => document.activeElement);
    do await page.keyboard.press('Tab');
    while (await page.evaluate((element) => element === document.activeElement && element.type === 'datetime-local', before));
    const { at, what, visible, inside } = await page.evaluate(() => {
      const element = document.activeElement;
      const style = getComputedStyle(element);
      const { top, bottom, left, right } = element.getBoundingClientRect();
      return {
        at: globalThis.__usable.indexOf(element), what: element.outerHTML.slice(0, 200),
        visible: (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none',
        inside: bottom > 0 && right > 0 && top < innerHeight && left < innerWidth,
      };
    });
    assert.equal(at, expected, `Tab leads to ${what}`);
    assert.ok(visible && inside, `one cannot see that this has the focus: ${what}`);
  }
}

/** Makes room for new pictures. */
export function clearPictures() {
  if (pictures === undefined) return;
  mkdirSync(pictures, { recursive: true });
  for (const old of readdirSync(pictures).filter((name) => name.endsWith('.png'))) rmSync(path.join(pictures, old));
}

/** `fewest`: how many there are at the least. */
export async function checkPictures(report, fewest) {
  if (pictures === undefined) return;
  await report.check('there are pictures, and they are small', () => {
    assert.ok(taken.size >= fewest, String(taken.size));
    for (const name of taken) assert.ok(statSync(path.join(pictures, name)).size < MAX_PICTURE, name);
  });
}

/** Addresses of this path; others may have it in a parameter. */
export function at(path) {
  return (url) => url.pathname.startsWith(path);
}
