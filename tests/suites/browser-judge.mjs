// What holds for every page, whoever looks at it and on what; and pictures of those that the documentation shows.

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';

import { misfits } from './browser-layout.mjs';
import { installed, root } from './lib.mjs';
import { Visitor } from './visitor.mjs';

const axe = readFileSync(installed('axe-core/axe.min.js'), 'utf8');
const CHECK_MS = 60_000;
/** What a picture shows of a long page, in pixels. */
const TALLEST = 1600;
/** Largest picture, in bytes. */
const MAX_PICTURE = 250_000;

export const VIEWS = [
  { name: 'desktop', width: 1280, height: 800, scheme: 'light' },
  { name: 'desktop-dark', width: 1280, height: 800, scheme: 'dark' },
  { name: 'phone', width: 320, height: 640, scheme: 'light' },
  { name: 'phone-dark', width: 320, height: 640, scheme: 'dark' },
];

const picturesAt = process.argv.indexOf('--screenshots');
const pictures = picturesAt === -1 ? undefined : path.resolve(process.argv[picturesAt + 1]);
/** Pictures that the documentation shows, and those of them whose page was seen. */
let wanted = new Set();
const seen = new Set();

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
   * may have. `brief` says of a page that is there, by its document, whether its like was judged before in this walk: then
   * only how it fits is looked at.
   */
  async seen(name, go, said, { scripts = 0, brief = () => false } = {}) {
    const { page, report, view } = this;
    const title = `${view.name}: ${name}`;
    const there = await report.check(`${title} is shown`, async () => {
      await go();
      await page.waitForLoadState();
      assert.match(await page.locator('main').innerText(), said);
    }, { within: CHECK_MS });
    if (!there) return false;
    await this.#picture(`${name}-${view.name}.png`);
    await judge(report, page, title, scripts, await brief(page));
    return true;
  }

  /** Takes a picture if the documentation shows it. */
  async #picture(file) {
    const { page, view } = this;
    if (!wanted.has(file)) return;
    assert.ok(!seen.has(file), `there are two pages for ${file}`);
    seen.add(file);
    if (pictures === undefined) return;
    const height = await page.evaluate(() => document.documentElement.scrollHeight);
    const clip = { x: 0, y: 0, width: view.width, height: Math.min(height, TALLEST) };
    await page.screenshot({ path: path.join(pictures, file), fullPage: true, clip, animations: 'disabled' });
  }

  async end() {
    await this.report.check(`${this.view.name}: nothing complained`, () => this.visitor.assertUntroubled());
    await this.visitor.leave();
  }
}

async function judge(report, page, title, scripts, isBrief) {
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
    assert.deepEqual(await page.evaluate(misfits), []);
  });
  if (isBrief) return;
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
    let now;
    do {
      await page.keyboard.press('Tab');
      now = await page.evaluate(whereTabIs);
      // A moment has a part for each of its numbers.
    } while (now.isMoment && now.at === expected - 1);
    const { at, what, visible, inside } = now;
    assert.equal(at, expected, `Tab leads to ${what}`);
    assert.ok(visible && inside, `one cannot see that this has the focus: ${what}`);
  }
}

/** What has the focus. It runs in the page. */
function whereTabIs() {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const { top, bottom, left, right } = element.getBoundingClientRect();
  return {
    at: globalThis.__usable.indexOf(element), what: element.outerHTML.slice(0, 200), isMoment: element.type === 'datetime-local',
    visible: (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none',
    inside: bottom > 0 && right > 0 && top < innerHeight && left < innerWidth,
  };
}

/** Which pictures there are to be: those of this folder that the documentation shows. Makes room for them. */
export function beginPictures(folder) {
  const shown = shownBy(path.join(root, 'docs')).filter((file) => path.dirname(file) === folder);
  wanted = new Set(shown.map((file) => path.basename(file)));
  if (pictures === undefined) return;
  mkdirSync(pictures, { recursive: true });
  for (const old of readdirSync(pictures).filter((name) => name.endsWith('.png'))) rmSync(path.join(pictures, old));
}

/** The pictures of pages that the chapters in a folder show. */
function shownBy(folder) {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.md'))
    .flatMap(({ parentPath, name }) => {
      const links = readFileSync(path.join(parentPath, name), 'utf8').matchAll(/!\[[^\]]*\]\(([^)\s]+\.png)\)/g);
      return [...links].map(([, link]) => path.relative(root, path.join(parentPath, link)));
    });
}

export async function checkPictures(report) {
  await report.check('every page whose picture the documentation shows is there', () => {
    assert.ok(wanted.size > 0);
    assert.deepEqual([...wanted].filter((file) => !seen.has(file)), []);
  });
  if (pictures === undefined) return;
  await report.check('pictures are small', () => {
    const large = [...seen].filter((file) => statSync(path.join(pictures, file)).size > MAX_PICTURE);
    assert.deepEqual(large, []);
  });
}

/** Addresses of this path; others may have it in a parameter. */
export function at(path) {
  return (url) => url.pathname.startsWith(path);
}
